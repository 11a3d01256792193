//! What is allocated on this thread, by who allocated it: the engine, a service, the simulated system, or the test itself.
//!
//! Tests on the simulated net run on one thread, so these numbers are the same in every run. By itself everything
//! is the test's, except in the turns of a run, which are the engine's; [`engine`] says that from here on it is the engine's,
//! [`service`] that it is a service's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tidewheel::sim::{Running, running};

/// Who allocates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    Test,
    Engine,
    Service,
    Simulator,
}

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::Test) };
    /// Bytes that each has allocated and nobody has freed; what another thread frees is missing there.
    static HELD: [Cell<isize>; 4] = const { [const { Cell::new(0) }; 4] };
    /// The most that each has held.
    static PEAK: [Cell<isize>; 4] = const { [const { Cell::new(0) }; 4] };
}

/// The system's allocator, with a note in front of each block: who allocated it.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Room for the note, which keeps the block aligned.
fn room(layout: Layout) -> usize {
    layout.align().max(size_of::<usize>())
}

/// The layout of a block with its note.
fn noted(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(room(layout))?, room(layout)).ok()
}

fn count(scope: usize, bytes: isize) {
    // A thread that ends may allocate when its numbers are gone already.
    let _ = HELD.try_with(|held| {
        let sum = held[scope].get() + bytes;
        held[scope].set(sum);
        PEAK.try_with(|peak| peak[scope].set(peak[scope].get().max(sum)))
    });
}

// SAFETY: every block is one of the system's, which is longer by `room` bytes and at least as aligned; what is handed out
// begins behind them, so it is as long and as aligned as was asked for. Counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(whole) = noted(layout) else { return std::ptr::null_mut() };
        // SAFETY: the layout is not empty, for it has room for the note.
        let block = unsafe { System.alloc(whole) };
        if block.is_null() {
            return block;
        }
        let scope = match (SCOPE.try_with(Cell::get).unwrap_or(Scope::Test), running()) {
            (Scope::Service, _) => Scope::Service,
            (_, Running::System) => Scope::Simulator,
            (Scope::Test, Running::Reactor) => Scope::Engine,
            (scope, _) => scope,
        };
        count(scope as usize, layout.size() as isize);
        // SAFETY: the block has `room` bytes in front of what is asked for, and is aligned for a usize.
        unsafe {
            block.cast::<usize>().write(scope as usize);
            block.add(room(layout))
        }
    }

    unsafe fn dealloc(&self, bytes: *mut u8, layout: Layout) {
        let Some(whole) = noted(layout) else { return };
        // SAFETY: it comes from `alloc` with the same layout, so the note and the system's block begin `room` bytes before.
        unsafe {
            let block = bytes.sub(room(layout));
            count(block.cast::<usize>().read(), -(layout.size() as isize));
            System.dealloc(block, whole);
        }
    }
}

fn within<R>(scope: Scope, call: impl FnOnce() -> R) -> R {
    /// Goes back also when the call panics.
    struct Back(Scope);
    impl Drop for Back {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let _back = Back(SCOPE.replace(scope));
    call()
}

/// What this allocates is the engine's, except what the simulated system does.
pub fn engine<R>(call: impl FnOnce() -> R) -> R {
    within(Scope::Engine, call)
}

/// What this allocates is a service's.
pub fn service<R>(call: impl FnOnce() -> R) -> R {
    within(Scope::Service, call)
}

/// Bytes that the engine holds, of those that were allocated on this thread.
pub fn held_by_engine() -> isize {
    HELD.with(|held| held[Scope::Engine as usize].get())
}

/// The most bytes that the engine has held at once while `call` ran.
pub fn peak_of_engine(call: impl FnOnce()) -> isize {
    PEAK.with(|peak| peak[Scope::Engine as usize].set(held_by_engine()));
    call();
    PEAK.with(|peak| peak[Scope::Engine as usize].get())
}

#[test]
fn blocks_count_for_whoever_has_allocated_them_until_they_are_freed() {
    let before = held_by_engine();
    let mut bytes = engine(|| vec![1_u8; 1000]);
    assert_eq!(held_by_engine() - before, 1000);
    let others = (service(|| vec![2_u8; 500]), vec![3_u8; 400]);
    assert_eq!(held_by_engine() - before, 1000);
    // Growing is allocating anew, by whoever grows it.
    service(|| bytes.reserve_exact(2000));
    assert_eq!(held_by_engine() - before, 0);
    assert!(bytes.iter().all(|&byte| byte == 1));
    drop(others);
    #[repr(align(128))]
    struct Wide(#[allow(dead_code, reason = "it is only there")] u8);
    let wide = engine(|| Box::new(Wide(7)));
    assert!((&raw const *wide as usize).is_multiple_of(128) && held_by_engine() - before == 128);
    drop(wide);
    assert_eq!(held_by_engine(), before);
}
