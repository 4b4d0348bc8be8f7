//! Text that a user hands over: arguments, files, standard input.

use std::io::Read;
use std::path::Path;

use crate::error::{CliError, Result};

/// More than any request may have; what is larger is no text for a prompt.
const MAX_BYTES: u64 = 16 << 20;

/// Reads standard input to its end.
///
/// # Errors
/// [`CliError::Usage`] for what is no text or larger than 16 MiB.
pub(crate) fn stdin() -> Result<String> {
    let failed = |source| CliError::Io { action: "read", path: "standard input".into(), source };
    read("standard input", std::io::stdin().lock()).map_err(|refused| refused.into_error(failed))
}

/// Reads a file, or standard input where the path is `-`.
///
/// # Errors
/// As [`stdin`]; [`CliError::Io`] for a file that cannot be read.
pub(crate) fn file(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        return stdin();
    }
    let failed = |source| CliError::Io { action: "read", path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    read(&path.display().to_string(), file).map_err(|refused| refused.into_error(failed))
}

/// The text, or why not: a mistake of the user, or what the system said.
fn read(name: &str, from: impl Read) -> Result<String, Refused> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Refused::System)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Refused::User(CliError::usage(format!("{name} is larger than 16 MiB"))));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Refused::User(CliError::usage(format!(
            "{name} is not UTF-8 text (byte {at}); convert it first, as with iconv"
        )))
    })
}

enum Refused {
    User(CliError),
    System(std::io::Error),
}

impl Refused {
    fn into_error(self, failed: impl FnOnce(std::io::Error) -> CliError) -> CliError {
        match self {
            Self::User(error) => error,
            Self::System(error) => failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let refusal = |bytes: &[u8]| match read("x.py", bytes) {
            Err(Refused::User(error)) => error.to_string(),
            _ => panic!("accepted"),
        };
        assert!(refusal(b"abc\xff").contains("x.py is not UTF-8 text (byte 3)"));
        let large = vec![b'a'; MAX_BYTES as usize + 1];
        assert!(refusal(&large).contains("16 MiB"));
        assert!(read("x.py", &b"\xed\x95\x9c"[..]).is_ok_and(|text| text == "한"));
    }
}
