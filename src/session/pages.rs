//! Pages of keys and values: who has them, which are free, and which hold the beginnings of prompts that may come again.
//!
//! A full page whose tokens are known is published under its parent and its tokens: a chain of such pages is a prefix, and
//! whoever begins with the same tokens shares it. Keys are compared whole, so that no two prefixes are taken for one another.
//! A page that nobody has stays published until its memory is needed: the one that was left first goes first.

use std::collections::{BTreeMap, HashMap};

/// What stands before the first page of every sequence.
pub const ROOT: u64 = 0;

/// A page's tokens, behind those of its parent.
type Key = (u64, Box<[u32]>);

/// The pages of a pool.
#[derive(Debug)]
pub struct PagePool {
    size: usize,
    free: Vec<u32>,
    pages: Vec<Page>,
    published: HashMap<Key, u32>,
    /// Published pages that nobody has, by when they were left.
    idle: BTreeMap<u64, u32>,
    /// The next name of a published page, and the next moment.
    next: u64,
    clock: u64,
}

#[derive(Debug, Clone, Default)]
struct Page {
    holders: usize,
    /// Its name, and what it is published under.
    name: u64,
    key: Option<Key>,
    left: u64,
}

impl PagePool {
    /// `pages` pages of `size` tokens.
    pub fn new(pages: usize, size: usize) -> PagePool {
        PagePool {
            size: size.max(1),
            free: (0..pages as u32).rev().collect(),
            pages: vec![Page::default(); pages],
            published: HashMap::new(),
            idle: BTreeMap::new(),
            next: ROOT + 1,
            clock: 0,
        }
    }
    /// Pages that there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }
    /// Pages that nobody has: empty ones, and those that hold a prefix for later.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }
    /// Pages that sequences have.
    pub fn used(&self) -> usize {
        self.len() - self.available()
    }

    /// A page to write to; the prefix that was left first is given up where none is empty.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                if let Some(key) = self.pages[page as usize].key.take() {
                    self.published.remove(&key);
                }
                page
            }
        };
        self.pages[page as usize] = Page { holders: 1, ..Page::default() };
        Some(page)
    }

    /// The published pages with which `tokens` begin, now held once more, and the name of the last.
    pub fn share(&mut self, tokens: &[u32]) -> (Vec<u32>, u64) {
        let (mut found, mut name) = (vec![], ROOT);
        for part in tokens.chunks_exact(self.size) {
            let Some(&page) = self.published.get(&(name, part.into())) else { break };
            let p = &mut self.pages[page as usize];
            if p.holders == 0 {
                self.idle.remove(&p.left);
            }
            p.holders += 1;
            name = p.name;
            found.push(page);
        }
        (found, name)
    }

    /// Publishes a page that is full of `tokens`, behind the page named `parent`; the name to go on with. Where another page
    /// is published with the same contents, that one's.
    pub fn publish(&mut self, page: u32, parent: u64, tokens: &[u32]) -> u64 {
        let key: Key = (parent, tokens.into());
        if let Some(&other) = self.published.get(&key) {
            return self.pages[other as usize].name;
        }
        let name = self.next;
        self.next += 1;
        self.published.insert(key.clone(), page);
        (self.pages[page as usize].name, self.pages[page as usize].key) = (name, Some(key));
        name
    }

    /// Gives a sequence's pages back. The last go first when memory is needed: a prefix is of use without them.
    pub fn release(&mut self, pages: &[u32]) {
        for &page in pages.iter().rev() {
            let p = &mut self.pages[page as usize];
            p.holders -= 1;
            if p.holders > 0 {
                continue;
            }
            match p.key {
                Some(_) => {
                    p.left = self.clock;
                    self.idle.insert(self.clock, page);
                    self.clock += 1;
                }
                None => self.free.push(page),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(pool: &mut PagePool, tokens: &[u32]) -> (Vec<u32>, u64) {
        let (mut pages, mut name) = pool.share(tokens);
        for part in tokens.chunks_exact(pool.size).skip(pages.len()) {
            let page = pool.take().unwrap();
            name = pool.publish(page, name, part);
            pages.push(page);
        }
        (pages, name)
    }

    #[test]
    fn prompts_that_begin_alike_share_pages_and_others_do_not() {
        let mut pool = PagePool::new(6, 2);
        let (a, _) = full(&mut pool, &[1, 2, 3, 4]);
        let (b, _) = full(&mut pool, &[1, 2, 5, 6]);
        assert_eq!((a[0] == b[0], a[1] == b[1], pool.used()), (true, false, 3));
        // The same tokens behind others are another page.
        let (c, _) = pool.share(&[3, 4]);
        assert!(c.is_empty());
        pool.release(&a);
        assert_eq!(pool.used(), 2);
        pool.release(&b);
        assert_eq!((pool.used(), pool.available()), (0, 6));
        assert_eq!(pool.share(&[1, 2, 3, 4, 9]).0, a);
    }

    #[test]
    fn the_prefix_that_was_left_first_goes_first_and_its_end_before_its_beginning() {
        let mut pool = PagePool::new(4, 1);
        let (a, _) = full(&mut pool, &[1, 2]);
        let (b, _) = full(&mut pool, &[3, 4]);
        pool.release(&a);
        pool.release(&b);
        assert_eq!(pool.take(), Some(a[1]));
        assert_eq!(pool.take(), Some(a[0]));
        assert_eq!(pool.share(&[1]).0, [0u32; 0]);
        assert_eq!(pool.share(&[3, 4]).0, b);
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn any_order_of_takes_and_releases_leaves_the_pool_whole() {
        let mut r = crate::reference::sample::Random::new(7);
        let mut pool = PagePool::new(12, 3);
        let mut held: Vec<Vec<u32>> = vec![];
        for _ in 0..5000 {
            if r.below(3) > 0 {
                let tokens: Vec<u32> = (0..r.below(12)).map(|_| r.below(2) as u32).collect();
                let (mut pages, mut name) = pool.share(&tokens);
                for part in tokens.chunks_exact(3).skip(pages.len()) {
                    let Some(page) = pool.take() else { break };
                    pages.push(page);
                    name = pool.publish(page, name, part);
                }
                held.push(pages);
            } else if !held.is_empty() {
                let pages = held.swap_remove(r.below(held.len()));
                pool.release(&pages);
            }
            let mut all: Vec<u32> = held.iter().flatten().copied().collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(pool.used(), all.len());
        }
        held.iter().for_each(|pages| pool.release(pages));
        assert_eq!((pool.used(), pool.available()), (0, 12));
    }
}
