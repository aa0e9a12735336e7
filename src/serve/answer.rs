//! What a caller holds while a request is answered.

use super::queue::Owner;
use super::request::{Ended, Event};
use super::ticket::Ticket;
use crate::base::{Error, Result};
use crate::session::Token;
use futures_core::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Tokens as they come. Dropping it cancels the request, within a step if it is being computed.
pub struct Answer {
    events: mpsc::UnboundedReceiver<Event>,
    ticket: Arc<Ticket>,
    /// Keeps the engine running.
    owner: Arc<Owner>,
    ended: Option<Ended>,
    /// Whether the last word has been heard.
    over: bool,
}

impl Answer {
    pub(super) fn new(events: mpsc::UnboundedReceiver<Event>, ticket: Arc<Ticket>, owner: Arc<Owner>) -> Answer {
        Answer { events, ticket, owner, ended: None, over: false }
    }

    /// The next token; `None` when the answer has ended. Waits without holding the thread, under any executor.
    ///
    /// # Errors
    /// [`Error::Deadline`]; a request that the model refuses; device faults; [`Error::Closed`] if the engine ended.
    pub async fn next(&mut self) -> Result<Option<Token>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for those who wait for several things.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Token>>> {
        if self.over {
            return Poll::Ready(Ok(None));
        }
        let event = match self.events.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(event) => event,
        };
        if let Some(Event::Token(token)) = event {
            return Poll::Ready(Ok(Some(token)));
        }
        self.over = true;
        Poll::Ready(match event {
            Some(Event::End(Ok(ended))) => {
                self.ended = Some(ended);
                Ok(None)
            }
            Some(Event::End(Err(e))) => Err(e),
            _ => Err(Error::closed("the engine ended before it had answered")),
        })
    }

    /// The figures, once the answer has ended.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }
}

impl Stream for Answer {
    type Item = Result<Token>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Token>>> {
        Answer::poll_next(&mut self, cx).map(Result::transpose)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.over {
            self.owner.0.cancel(&self.ticket);
        }
    }
}
