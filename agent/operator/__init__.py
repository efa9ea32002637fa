"""The operator's side, on a workstation: the cloud that devices come to. Never on a device."""
