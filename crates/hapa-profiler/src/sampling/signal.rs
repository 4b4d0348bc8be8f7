//! Samples of the stacks of running threads: a timer of processor time, and what happens at its ticks.
//!
//! `unsafe` in three places, each a thing that the standard library does not offer: installing a
//! signal handler, setting the timer, and walking the stack without the lock that
//! `backtrace::trace` takes, which the interrupted thread may hold.
#![allow(unsafe_code)]

use std::{
    mem,
    ptr::null_mut,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Frames kept of a stack, the innermost first.
const DEPTH: usize = 64;
/// Samples of one profile; later ones are counted and not kept.
pub(super) const CAPACITY: usize = 32_768;
/// Frames of the handler itself that may lie above the interrupted function.
const HANDLER_FRAMES: usize = 8;

/// What handlers write to: made once, before the first signal, and never freed, since a late signal
/// may still write.
struct Buffer {
    active: AtomicBool,
    /// Handlers between their start and their end.
    inside: AtomicUsize,
    taken: AtomicUsize,
    /// `DEPTH` addresses for each sample; 0 ends a shorter stack.
    frames: Box<[AtomicUsize]>,
}

static BUFFER: OnceLock<Buffer> = OnceLock::new();

/// Stacks as addresses, the innermost frame first; and how many samples found no room.
pub(super) struct Samples {
    pub(super) stacks: Vec<Vec<usize>>,
    pub(super) lost: usize,
}

/// Begins to sample every `interval_us` microseconds of the process's processor time.
pub(super) fn start(interval_us: u32) -> std::io::Result<()> {
    // Loads what the unwinder needs, outside of a handler.
    backtrace::trace(|_| false);
    let buffer = BUFFER.get_or_init(|| Buffer {
        active: AtomicBool::new(false),
        inside: AtomicUsize::new(0),
        taken: AtomicUsize::new(0),
        frames: (0..CAPACITY * DEPTH).map(|_| AtomicUsize::new(0)).collect(),
    });
    buffer.taken.store(0, Ordering::Relaxed);
    install()?;
    buffer.active.store(true, Ordering::SeqCst);
    set_timer(interval_us)
}

/// Ends sampling, waits for handlers under way, and gives what there is.
pub(super) fn stop() -> Samples {
    // The handler stays: a signal that is already on its way would end the process otherwise.
    let _ = set_timer(0);
    let Some(buffer) = BUFFER.get() else { return Samples { stacks: Vec::new(), lost: 0 } };
    buffer.active.store(false, Ordering::SeqCst);
    while buffer.inside.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
    let taken = buffer.taken.load(Ordering::Relaxed);
    let stacks = buffer.frames.chunks_exact(DEPTH).take(taken).map(|stack| {
        let addresses = stack.iter().map(|frame| frame.load(Ordering::Relaxed));
        addresses.take_while(|address| *address != 0).collect()
    });
    Samples { stacks: stacks.collect(), lost: taken.saturating_sub(CAPACITY) }
}

fn install() -> std::io::Result<()> {
    // SAFETY: zeroes are a valid `sigaction`: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: `action` lives through the call, and the handler it names does only what a handler may
    // (see there).
    let result = unsafe { libc::sigaction(libc::SIGPROF, &raw const action, null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn set_timer(interval_us: u32) -> std::io::Result<()> {
    let every = libc::timeval {
        tv_sec: libc::time_t::from(interval_us / 1_000_000),
        tv_usec: libc::suseconds_t::from(interval_us % 1_000_000),
    };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `timer` lives through the call; the old timer is not asked for.
    let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, null_mut()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Runs in a signal: no allocation, no lock, `errno` kept.
extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(buffer) = BUFFER.get() else { return };
    buffer.inside.fetch_add(1, Ordering::SeqCst);
    if buffer.active.load(Ordering::SeqCst) {
        let errno = std::io::Error::last_os_error().raw_os_error();
        sample(buffer, interrupted_at(context));
        restore_errno(errno);
    }
    buffer.inside.fetch_sub(1, Ordering::SeqCst);
}

fn sample(buffer: &Buffer, interrupted: Option<usize>) {
    let at = buffer.taken.fetch_add(1, Ordering::Relaxed);
    let Some(stack) = buffer.frames.chunks_exact(DEPTH).nth(at) else { return };
    let mut kept = 0;
    let mut seen = 0;
    // Frames from here to the signal's own are the handler's.
    let mut inside = interrupted.is_none();
    // SAFETY: the lock that `trace` would take serialises the loading of debug information, which
    // this call does not touch; the unwinder itself is used by one thread for its own stack.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let address = frame.ip() as usize;
            seen += 1;
            inside |= Some(address) == interrupted;
            if inside && kept < DEPTH {
                stack[kept].store(address, Ordering::Relaxed);
                kept += 1;
            }
            kept < DEPTH && (inside || seen < HANDLER_FRAMES)
        });
    }
    if kept == 0
        && let Some(address) = interrupted
    {
        stack[0].store(address, Ordering::Relaxed);
        kept = 1;
    }
    if let Some(end) = stack.get(kept) {
        end.store(0, Ordering::Relaxed);
    }
}

/// The instruction that the signal interrupted.
fn interrupted_at(context: *mut libc::c_void) -> Option<usize> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        // SAFETY: with SA_SIGINFO the kernel hands over a `ucontext_t` that lives through the handler.
        let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
        usize::try_from(context.uc_mcontext.gregs[libc::REG_RIP as usize]).ok()
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        // SAFETY: as above.
        let context = unsafe { context.cast::<libc::ucontext_t>().as_ref() }?;
        usize::try_from(context.uc_mcontext.pc).ok()
    }
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        let _ = context;
        None
    }
}

fn restore_errno(errno: Option<i32>) {
    #[cfg(target_os = "linux")]
    // SAFETY: the address is the calling thread's own and valid while it lives.
    unsafe {
        *libc::__errno_location() = errno.unwrap_or(0);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = errno;
}
