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

/// The byte that a character stands for.
pub(crate) const fn char_to_byte(c: char) -> Option<u8> {
    let code = c as usize;
    if code < CODES && CODE_TO_BYTE[code] >= 0 { Some(CODE_TO_BYTE[code] as u8) } else { None }
}

/// Codes in use: 256 and the 68 bytes that do not stand for themselves.
const CODES: usize = 256 + 68;

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

const CODE_TO_BYTE: [i16; CODES] = {
    let mut table = [-1; CODES];
    let mut byte = 0;
    while byte < 256 {
        table[BYTE_TO_CODE[byte] as usize] = byte as i16;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_round_trip_and_known_ones_agree_with_gpt2() {
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(byte_to_char(b'\n'), 'Ċ');
        assert_eq!(byte_to_char(b'\t'), 'ĉ');
        assert_eq!(byte_to_char(0xAD), 'Ń');
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('한'), None);
    }
}
