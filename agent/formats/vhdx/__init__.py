"""VHDX: Hyper-V's disk images, dynamic and fixed."""
