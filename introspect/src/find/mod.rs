//! Finds the kernel in raw memory, with no symbols and no registers.
