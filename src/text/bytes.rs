//! The bytes of single tokens: characters may be spread over several.

use super::Tokenizer;

impl Tokenizer {
    /// Bytes that a token stands for; `None` where there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![];
        match self.has(id) {
            true if self.push_bytes(id, false, &mut bytes) => Some(bytes),
            true => Some(self.token_text(id).into_bytes()),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::text::{Tokenizer, Vocabulary};
    use std::sync::Arc;

    #[test]
    fn tokens_are_the_bytes_of_their_text() {
        let mut tokens: Vec<String> = vec!["<|end|>".into()];
        tokens.extend((b'!'..=b'~').map(|b| (b as char).to_string()));
        tokens.extend(["Ġ", "Ċ", "Ã", "©", "ð", "Ł", "ĺ", "Ģ", "he", "Ġt", "ł", "Ń"].map(String::from));
        let mut types = vec![1; tokens.len()];
        types[0] = 3;
        let v =
            Vocabulary { model: "gpt2".into(), tokens: Arc::new(tokens.iter().collect()), types, ..Default::default() };
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
