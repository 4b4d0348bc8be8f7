//! Just enough of Rust's grammar to tell code from comments and literals.

/// The source with comments and the insides of string and character literals blanked out. Line
/// breaks stay, so that line numbers hold.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_identifier(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => character_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Lines (from 1) where `word` stands as an identifier of its own.
pub(crate) fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let is_identifier = |character: char| character.is_alphanumeric() || character == '_';
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.split(|c: char| !is_identifier(c)).any(|found| found == word))
        .map(|(index, _)| index + 1)
        .collect()
}

fn follows_identifier(bytes: &[u8], at: usize) -> bool {
    // `br"..."` is a raw string too; any other letter before the `r` makes it part of a name.
    let before = at.checked_sub(1).map(|index| bytes[index]);
    before.is_some_and(|byte| byte != b'b' && (byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let inside = &bytes[open + 1..];
    let length = inside.windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// The end of a character literal; nothing for a lifetime or label.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes.get(at + 3..)?.iter().position(|&byte| byte == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of up to four bytes, then the quote.
    let character = std::str::from_utf8(&bytes[at + 1..(at + 5).min(bytes.len())]);
    let length = match character {
        Ok(text) => text.chars().next()?.len_utf8(),
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&bytes[at + 1..at + 1 + error.valid_up_to()])
                .ok()?
                .chars()
                .next()?
                .len_utf8()
        }
        Err(_) => return None,
    };
    (bytes.get(at + 1 + length) == Some(&b'\'')).then_some(at + 2 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let source = concat!(
            "let a = \"unsafe \\\" unsafe\"; // unsafe\n",
            "/* unsafe /* unsafe */ unsafe */ let b = r#\"unsafe \" unsafe\"#;\n",
            "let c = 'u'; let d: &'static str = br\"unsafe\"; let e = '\\''; let f = '\"';\n",
            "unsafe { g() }\n",
        );
        let code = code_only(source);
        assert_eq!(lines_with_word(&code, "unsafe"), [4]);
        assert!(code.contains("'static str"), "{code}");
        assert_eq!(code.lines().count(), 4);
    }

    #[test]
    fn a_word_is_a_whole_identifier() {
        assert_eq!(lines_with_word("forbid(unsafe_code)\nunsafe fn a()", "unsafe"), [2]);
    }

    #[test]
    fn unfinished_literals_do_not_panic() {
        for source in ["\"", "r#\"", "/*", "'", "'\\", "'\\'", "b'\\", "\"\\", "'é", "r"] {
            assert!(code_only(source).len() <= source.len().max(1) * 3);
        }
    }
}
