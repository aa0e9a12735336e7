//! GPT-2's alphabet: a letter for each byte, so that text of bytes can be written as letters that can be seen.

use std::sync::OnceLock;

/// Letters by byte: those that can be seen stand for themselves, the others follow from U+0100 on.
pub fn letters() -> &'static [char; 256] {
    static TABLE: OnceLock<[char; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut next = 256;
        std::array::from_fn(|b| match b {
            33..=126 | 161..=172 | 174..=255 => b as u8 as char,
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or('?')
            }
        })
    })
}

/// The byte that a letter stands for.
pub fn byte(letter: char) -> Option<u8> {
    match letter as u32 {
        33..=126 | 161..=172 | 174..=255 => Some(letter as u32 as u8),
        n @ 256..=288 => Some((n - 256) as u8),
        n @ 289..=322 => Some((n - 289 + 127) as u8),
        323 => Some(173),
        _ => None,
    }
}

/// Bytes of a token in this alphabet; `None` where a letter is none of it.
pub fn bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_bytes_are_one_to_one() {
        for b in 0..=255u8 {
            assert_eq!(byte(letters()[b as usize]), Some(b), "{b}");
        }
        assert_eq!(letters()[b' ' as usize], 'Ġ');
        assert_eq!((bytes("Ãł"), bytes("€")), (Some(vec![0xc3, 0xa0]), None));
    }
}
