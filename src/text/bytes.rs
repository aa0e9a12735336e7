//! The bytes of single tokens: characters may be spread over several.

use super::Tokenizer;
use tokenizers::{DecoderWrapper, ModelWrapper};

impl Tokenizer {
    /// Bytes that a token stands for; `None` where there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let inner = self.inner();
        let text = inner.id_to_token(id)?;
        if inner.get_added_tokens_decoder().contains_key(&id) {
            return Some(text.into_bytes());
        }
        if is_byte_level(inner) {
            let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
            return Some(bytes.unwrap_or_else(|| text.into_bytes()));
        }
        // SentencePiece spells single bytes, and spaces as a letter of their own.
        if let Some(byte) = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')) {
            return Some(u8::from_str_radix(byte, 16).map_or_else(|_| text.clone().into_bytes(), |b| vec![b]));
        }
        let text = match inner.get_model() {
            ModelWrapper::WordPiece(_) => text.strip_prefix("##").map_or(format!(" {text}"), String::from),
            _ => text.replace('▁', " "),
        };
        Some(text.into_bytes())
    }

    /// Whether a token is a marker rather than text.
    pub fn is_marker(&self, id: u32) -> bool {
        self.inner().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }
}

fn is_byte_level(inner: &tokenizers::Tokenizer) -> bool {
    match inner.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(s)) => s.get_decoders().iter().any(|d| matches!(d, DecoderWrapper::ByteLevel(_))),
        _ => false,
    }
}

/// The byte that a letter of a byte-level vocabulary stands for: printable Latin-1 is itself, the others follow from 256 on
/// in their order (GPT-2).
fn byte_of(letter: char) -> Option<u8> {
    let code = letter as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        256..=288 => Some((code - 256) as u8),
        289..=322 => Some((code - 289 + 0x7f) as u8),
        323 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Vocabulary;

    #[test]
    fn tokens_are_the_bytes_of_their_text() {
        let mut tokens: Vec<String> = vec!["<|end|>".into()];
        tokens.extend((b'!'..=b'~').map(|b| (b as char).to_string()));
        tokens.extend(["Ġ", "Ċ", "Ã", "©", "ð", "Ł", "ĺ", "Ģ", "he", "Ġt", "ł", "Ń"].map(String::from));
        let mut types = vec![1; tokens.len()];
        types[0] = 3;
        let v = Vocabulary { model: "gpt2".into(), tokens: tokens.clone(), types, ..Default::default() };
        let t = Tokenizer::from_vocabulary(v).unwrap();
        let bytes = |token: &str| t.token_bytes(t.token_id(token).unwrap()).unwrap();
        assert_eq!((bytes("he"), bytes("Ġt"), bytes("Ċ")), (b"he".to_vec(), b" t".to_vec(), b"\n".to_vec()));
        assert_eq!((bytes("Ã"), bytes("©"), bytes("ł"), bytes("Ń")), (vec![0xc3], vec![0xa9], vec![0xa0], vec![0xad]));
        assert_eq!(bytes("<|end|>"), b"<|end|>");
        let smile: Vec<u8> = t.encode("é😀", false).unwrap().iter().flat_map(|i| t.token_bytes(*i).unwrap()).collect();
        assert_eq!(smile, "é😀".as_bytes());
        assert_eq!(t.token_bytes(tokens.len() as u32), None);
        assert!(t.is_marker(0) && !t.is_marker(1));
    }
}
