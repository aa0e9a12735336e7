//! How bytes reach ranks of other processes.

use crate::base::Result;

/// One message between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Post {
    pub from: usize,
    pub to: usize,
    /// Tells messages between the same two ranks apart; both sides count alike.
    pub tag: u32,
    pub bytes: usize,
}

/// Carries messages to and from ranks that this process does not run.
///
/// Sends do not wait for their receivers, so ranks may send to each other at once. Whatever goes wrong, a peer that
/// ended included, is an error within a few seconds, never silence.
pub trait Transport {
    fn send(&mut self, post: Post, bytes: Vec<u8>) -> Result<()>;
    fn receive(&mut self, post: Post) -> Result<Vec<u8>>;
    /// Waits until every send has left.
    fn finish(&mut self) -> Result<()>;
    /// Takes leave of the others, when all is done. Without it a process counts as failed.
    fn close(&mut self) -> Result<()>;
    /// A word for people.
    fn name(&self) -> String;
}

/// All ranks are in this process: nothing is ever sent.
pub struct Nobody;

impl Transport for Nobody {
    fn send(&mut self, post: Post, _: Vec<u8>) -> Result<()> {
        Err(crate::base::Error::usage(format!("rank {} is in no process", post.to)))
    }
    fn receive(&mut self, post: Post) -> Result<Vec<u8>> {
        Err(crate::base::Error::usage(format!("rank {} is in no process", post.from)))
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
    fn name(&self) -> String {
        "one process".into()
    }
}
