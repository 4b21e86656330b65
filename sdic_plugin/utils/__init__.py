"""What every floor needs: files, disk, devices, seeds, precision, memory, the terminal."""
