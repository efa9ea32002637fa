// What `tpm2cloud-operator deploy` makes with Resource Manager, for those who prefer Bicep: an IoT
// hub, a provisioning service with the hub linked to it, and the operational CA's certificates.
//
// The enrolment group is no resource of Resource Manager: `tpm2cloud-operator deploy`, run after
// this, makes it. It links the hub once more, to mark by which key; all else it finds done.
targetScope = 'resourceGroup'

@description('hub.name of operator.toml')
param hubName string

@description('dps.name of operator.toml')
param dpsName string

@description('azure.location of operator.toml')
param location string = resourceGroup().location

@description('hub.sku and hub.units of operator.toml')
param hubSku string = 'S1'
param hubUnits int = 1

@description('dps.units of operator.toml')
param dpsUnits int = 1

@description('enrolment.group of operator.toml')
param enrolmentGroup string = 'tpm2cloud'

@description('CA certificates: name (tpm2cloud- and 32 hex digits of the SHA-256 of the DER), certificate (DER, base64)')
param operationalCas array = []

var partitions = (hubSku == 'F1') ? 2 : 4

var tags = {
  tpm2cloud: enrolmentGroup
}

resource hub 'Microsoft.Devices/IotHubs@2023-06-30' = {
  name: hubName
  location: location
  tags: tags
  sku: {
    name: hubSku
    capacity: hubUnits
  }
  properties: {
    eventHubEndpoints: {
      events: {
        retentionTimeInDays: 1
        partitionCount: partitions
      }
    }
  }
}

resource dps 'Microsoft.Devices/provisioningServices@2026-11-01' = {
  name: dpsName
  location: location
  tags: tags
  sku: {
    name: 'S1'
    capacity: dpsUnits
  }
  properties: {
    allocationPolicy: 'Hashed'
    iotHubs: [
      {
        connectionString: 'HostName=${hub.properties.hostName};SharedAccessKeyName=iothubowner;SharedAccessKey=${hub.listkeys().value[0].primaryKey}'
        location: location
      }
    ]
  }
}

resource certificate 'Microsoft.Devices/provisioningServices/certificates@2026-11-01' = [for ca in operationalCas: {
  parent: dps
  name: ca.name
  properties: {
    certificate: ca.certificate
    isVerified: true
  }
}]

output idScope string = dps.properties.idScope
