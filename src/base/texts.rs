//! Many short texts in two allocations: the strings of a vocabulary.

/// A list of byte strings, one behind another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Texts {
    /// Adds a text; false where the list has reached the 4 GiB that it can hold.
    #[must_use]
    pub fn push(&mut self, text: &[u8]) -> bool {
        let Ok(end) = u32::try_from(self.bytes.len() + text.len()) else { return false };
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        true
    }
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.bytes[start..end])
    }
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Texts {
    /// What is beyond 4 GiB is left out.
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Texts {
        let mut out = Texts::default();
        for t in texts {
            if !out.push(t.as_ref()) {
                break;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        let all = ["a", "", "bcd"];
        let t: Texts = all.iter().collect();
        assert_eq!(t.iter().collect::<Vec<_>>(), all.map(str::as_bytes));
        assert_eq!((t.len(), t.bytes(), t.get(3)), (3, 4, None));
    }
}
