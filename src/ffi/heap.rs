//! The C library's heap. Returns memory to the system that a burst has left free between small living objects;
//! does not know who allocated what. For programs that own their process, not for a library inside one.

/// Returns every whole free page of the heap to the system. Walks the free lists, which takes some 10 ms after a
/// burst of hundreds of megabytes and next to nothing otherwise.
/// Other C libraries return freed memory by themselves, or have no such call.
pub fn trim() {
    // SAFETY: malloc_trim takes a number, touches only memory that is free and does its own locking.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
