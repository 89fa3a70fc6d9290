"""OVA archives, and the VMDK disks in them."""
