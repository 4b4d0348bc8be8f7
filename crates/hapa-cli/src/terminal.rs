//! The terminal that bars are drawn on.

use std::io;

use console::Term;
use indicatif::TermLike;

/// Columns that stay free at the right. indicatif fills its last line to the end, where the `^C` that a terminal echoes
/// would wrap, so that the line before it could not be cleared any more.
const MARGIN: u16 = 3;

/// Standard error, a little narrower than it is. A terminal that has gone is no reason to fail (indicatif would panic).
#[derive(Debug)]
pub(crate) struct Narrow(Term);

impl Narrow {
    pub(crate) fn stderr() -> Self {
        Self(Term::buffered_stderr())
    }
}

/// Progress is worth nothing that is worth an error.
fn ignore(_: io::Result<()>) -> io::Result<()> {
    Ok(())
}

impl TermLike for Narrow {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(MARGIN).max(1)
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        ignore(self.0.move_cursor_left(n))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        ignore(self.0.write_line(text))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        ignore(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        ignore(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        ignore(self.0.flush())
    }
}
