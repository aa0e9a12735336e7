//! Text from tokens as they come.

use super::Tokenizer;
use crate::base::Result;

/// Tokens kept before the newest, so that decoders that look back see what they need.
const KEEP: usize = 4;

/// Gives out only complete characters: the bytes of one may be spread over several tokens.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    shown: usize,
}

impl StreamDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes; markers give none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.fresh(tokenizer)?;
        // A replacement character at the end may become a real one with the next token.
        if text.ends_with('\u{fffd}') && self.ids.len() - self.shown < KEEP {
            return Ok(String::new());
        }
        self.shown = self.ids.len();
        if self.shown > 2 * KEEP {
            self.ids.drain(..self.shown - KEEP);
            self.shown = KEEP;
        }
        Ok(text)
    }

    /// What is still held back.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let text = self.fresh(tokenizer)?;
        self.shown = self.ids.len();
        Ok(text)
    }

    fn fresh(&self, tokenizer: &Tokenizer) -> Result<String> {
        let before = tokenizer.decode(&self.ids[..self.shown], true)?;
        let all = tokenizer.decode(&self.ids, true)?;
        Ok(all.strip_prefix(&before).unwrap_or_default().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Vocabulary;

    #[test]
    fn a_character_of_two_tokens_comes_out_whole() {
        let mut tokens: Vec<String> = (b'!'..=b'~').map(|b| (b as char).to_string()).collect();
        tokens.extend(["Ġ", "Ã", "©", "ð", "Ł", "ĺ", "Ģ"].map(String::from));
        let types = vec![1; tokens.len()];
        let v = Vocabulary { model: "gpt2".into(), tokens, types, ..Default::default() };
        let t = Tokenizer::from_vocabulary(v).unwrap();
        let mut s = StreamDecoder::new();
        let parts: Vec<String> = t.encode("aé😀b", false).unwrap().iter().map(|i| s.push(&t, *i).unwrap()).collect();
        assert_eq!(parts, ["a", "", "é", "", "", "", "😀", "b"]);
        s.push(&t, t.encode("é", false).unwrap()[0]).unwrap();
        assert_eq!(s.finish(&t).unwrap(), "\u{fffd}");
    }
}
