//! Text from tokens as they come.

use super::Tokenizer;
use crate::base::Result;

/// Tokens kept before the newest where a decoder looks at neighbours, and the most that wait for a whole character.
const KEEP: usize = 4;
const WAIT: usize = 32;

/// Gives out only complete characters: the bytes of one may be spread over several tokens. What it gives is the text as it
/// goes on, so a space before the first word stays.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    /// Bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// For decoders that look at neighbours: tokens, and how many of them have been given out.
    ids: Vec<u32>,
    shown: usize,
}

impl StreamDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes; markers give none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        if tokenizer.push_bytes(id, true, &mut self.bytes) {
            return Ok(self.whole());
        }
        self.ids.push(id);
        let text = self.fresh(tokenizer)?;
        // A replacement character at the end may become a real one with the next token.
        if text.ends_with('\u{fffd}') && self.ids.len() - self.shown < WAIT {
            return Ok(String::new());
        }
        self.ids.drain(..self.shown.saturating_sub(KEEP));
        self.shown = self.ids.len();
        Ok(text)
    }

    /// What is still held back. Bytes that never became a character are U+FFFD.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        if self.shown < self.ids.len() {
            text += &self.fresh(tokenizer)?;
            self.shown = self.ids.len();
        }
        Ok(text)
    }

    /// Takes the characters that are whole. Bytes that cannot begin or continue one become U+FFFD.
    fn whole(&mut self) -> String {
        let mut out = String::new();
        let mut rest = &self.bytes[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                }
                Err(e) => {
                    let (good, bad) = rest.split_at(e.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(good));
                    let Some(n) = e.error_len() else {
                        rest = bad;
                        break;
                    };
                    out.push('\u{fffd}');
                    rest = &bad[n..];
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        self.bytes = rest.to_vec();
        out
    }

    fn fresh(&self, tokenizer: &Tokenizer) -> Result<String> {
        let before = tokenizer.decode(&self.ids[..self.shown], true)?;
        let all = tokenizer.decode(&self.ids, true)?;
        // A decoder may write what was shown in another way now: as many letters are taken to be the same.
        Ok(match all.strip_prefix(&before) {
            Some(fresh) => fresh.to_string(),
            None => all.chars().skip(before.chars().count()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Vocabulary;

    fn vocabulary(tokens: &[String], types: &[i64], model: &str) -> Tokenizer {
        let (tokens, types) = (std::sync::Arc::new(tokens.iter().collect()), types.to_vec());
        let scores = (0..types.len()).map(|i| -(i as f64)).collect();
        Tokenizer::from_vocabulary(Vocabulary { model: model.into(), tokens, types, scores, ..Default::default() })
            .unwrap()
    }

    #[test]
    fn a_character_of_two_tokens_comes_out_whole() {
        let mut tokens: Vec<String> = (b'!'..=b'~').map(|b| (b as char).to_string()).collect();
        tokens.extend(["Ġ", "Ã", "©", "ð", "Ł", "ĺ", "Ģ"].map(String::from));
        let t = vocabulary(&tokens, &vec![1; tokens.len()], "gpt2");
        let mut s = StreamDecoder::new();
        let parts: Vec<String> = t.encode("aé😀b", false).unwrap().iter().map(|i| s.push(&t, *i).unwrap()).collect();
        assert_eq!(parts, ["a", "", "é", "", "", "", "😀", "b"]);
        s.push(&t, t.encode("é", false).unwrap()[0]).unwrap();
        assert_eq!(s.finish(&t).unwrap(), "\u{fffd}");
        let broken: Vec<u32> = ["Ã", "a", "ð", "Ł", "Ã", "©"].iter().map(|p| t.token_id(p).unwrap()).collect();
        let text: String = broken.iter().map(|i| s.push(&t, *i).unwrap()).collect();
        assert_eq!(text, "\u{fffd}a\u{fffd}é");
    }

    /// Every way to cut texts of many kinds of letters: what comes out is the text, for every kind of vocabulary.
    #[test]
    fn no_character_vanishes_or_doubles() {
        let text = "Ein 中文 wörd 😀👩‍👩‍👧 \u{301}é ﷺ end";
        let mut spm: Vec<String> = ["<unk>", "<s>", "</s>", "▁", "wö", "rd", "▁wörd"].map(String::from).to_vec();
        let mut types = vec![2, 3, 3, 1, 1, 1, 1];
        spm.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        types.extend([6; 256]);
        let t = vocabulary(&spm, &types, "llama");
        let ids = t.encode(text, true).unwrap();
        let mut s = StreamDecoder::new();
        let mut out: String = ids.iter().map(|i| s.push(&t, *i).unwrap()).collect();
        out += &s.finish(&t).unwrap();
        assert_eq!(out, format!(" {text}"));
        assert_eq!(t.decode(&ids, true).unwrap(), text);
    }
}
