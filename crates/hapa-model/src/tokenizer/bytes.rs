//! The byte-to-character mapping of GPT-2's byte-level BPE.
//!
//! Bytes that are printable in Latin-1 stand for themselves, the 68 others for U+0100 and up, in order,
//! so that every byte string is a string of visible characters.

/// The character that stands for a byte.
pub(crate) const fn byte_to_char(byte: u8) -> char {
    let code = BYTE_TO_CODE[byte as usize];
    // Every code of the table is below U+0144, thus a character.
    match char::from_u32(code as u32) {
        Some(c) => c,
        None => char::REPLACEMENT_CHARACTER,
    }
}

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const BYTE_TO_CODE: [u16; 256] = {
    let mut table = [0; 256];
    let mut next = 256;
    let mut byte = 0;
    while byte < 256 {
        if stands_for_itself(byte as u8) {
            table[byte] = byte as u16;
        } else {
            table[byte] = next;
            next += 1;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_agree_with_gpt2() {
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(byte_to_char(b'\t'), 'ĉ');
        assert_eq!(byte_to_char(0xAD), 'Ń');
    }
}
