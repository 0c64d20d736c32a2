//! Edits: from a list of changes to the next snapshot, all or nothing.
//!
//! `table` holds every region by id, placed or not; `transaction` works out what an edit makes of
//! them, judges the result, takes it to the source and undoes everything there if anything fails;
//! `check` refuses windows that exclude each other.

pub(crate) mod check;
pub(crate) mod table;
pub(crate) mod transaction;
