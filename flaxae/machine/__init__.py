"""The machine: devices, processes, signals, and the settings of compilers."""
