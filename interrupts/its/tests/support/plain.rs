//! Guest RAM from address 0 on that is plain bytes of this program, all there from the start: for
//! what measures memory or time.

use std::cell::RefCell;

use gicv3_its::{GuestMemory, MemoryError};

/// The bytes.
pub struct Plain(RefCell<Vec<u8>>);

impl Plain {
    /// So many of them, all zeroes.
    pub fn new(len: usize) -> Self {
        Self(RefCell::new(vec![0; len]))
    }
}

impl GuestMemory for Plain {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let ram = self.0.borrow();
        data.copy_from_slice(ram.get(start..start + data.len()).ok_or(MemoryError)?);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let mut ram = self.0.borrow_mut();
        ram.get_mut(start..start + data.len()).ok_or(MemoryError)?.copy_from_slice(data);
        Ok(())
    }
}
