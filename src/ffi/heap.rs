//! The C library's heap: where large objects lie in it, and returning memory to the system that a burst has left free
//! between small living ones. Does not know who allocated what. For programs that own their process, not for a library
//! inside one.

/// Bytes from which an object has pages of its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 4 * 1024 * 1024;

/// Keeps large objects out of the heap between the small ones. To grow one there means to copy it, which takes some 50 ms
/// for 30 MB; its own pages only get other addresses. glibc, left alone, raises the bound to 32 MiB as it sees such objects.
/// Before the first of them, that is when the program starts. Other C libraries do so by themselves, or have no such call.
pub fn keep_large_apart() {
    // SAFETY: mallopt takes two numbers and does its own locking; both are options of this C library.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE);
    }
}

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
