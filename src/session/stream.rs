//! An answer as a stream of tokens.

use super::{Cancel, Finished, Generation, Generator, Request, Token};
use crate::base::Result;
use crate::text::Constraint;
use futures_core::Stream;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// An answer's tokens as they come: a [`Stream`], or [`Tokens::next`] without any other crate. Dropping it ends the answer; the
/// generator can be asked again, and what it has computed stays in its cache.
pub struct Tokens<'g> {
    cancel: Cancel,
    stage: Stage<'g>,
    over: bool,
}

type Step<'g> = (&'g mut Generator, Box<Generation>, Result<Option<Token>>);

enum Stage<'g> {
    /// Between two tokens.
    Between(&'g mut Generator, Box<Generation>),
    /// While one is computed, which owns both until then.
    Computing(Pin<Box<dyn Future<Output = Step<'g>> + 'g>>),
    /// While the stage changes.
    Changing,
}

impl<'g> Tokens<'g> {
    /// Ends the answer when another thread cancels: within a step on a device, and between two nodes on the CPU.
    #[must_use]
    pub fn until(self, cancel: &Cancel) -> Tokens<'g> {
        Tokens { cancel: cancel.clone(), ..self }
    }

    /// Lets only tokens through that `constraint` allows.
    #[must_use]
    pub fn constrained(mut self, constraint: Box<dyn Constraint>) -> Tokens<'g> {
        if let Stage::Between(_, generation) = &mut self.stage {
            generation.constrain(constraint);
        }
        self
    }

    /// The next token; `None` once the answer has ended.
    ///
    /// # Errors
    /// Device faults, with which the answer ends.
    pub async fn next(&mut self) -> Option<Result<Token>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// All that is left of the answer's text.
    ///
    /// # Errors
    /// Device faults.
    pub async fn text(&mut self) -> Result<String> {
        let mut text = String::new();
        while let Some(token) = self.next().await {
            text.push_str(&token?.text);
        }
        Ok(text)
    }

    /// The figures so far; `None` while a token is being computed.
    pub fn figures(&self) -> Option<Finished> {
        match &self.stage {
            Stage::Between(model, generation) => Some(model.finished(generation)),
            Stage::Computing(_) | Stage::Changing => None,
        }
    }
}

impl Stream for Tokens<'_> {
    type Item = Result<Token>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Token>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let mut step = match std::mem::replace(&mut this.stage, Stage::Changing) {
            Stage::Between(model, mut generation) => {
                let cancel = this.cancel.clone();
                Box::pin(async move {
                    let made = model.next(&mut generation, &cancel).await;
                    (model, generation, made)
                })
            }
            Stage::Computing(step) => step,
            Stage::Changing => return Poll::Ready(None),
        };
        match step.as_mut().poll(cx) {
            Poll::Pending => {
                this.stage = Stage::Computing(step);
                Poll::Pending
            }
            Poll::Ready((model, generation, made)) => {
                this.stage = Stage::Between(model, generation);
                let token = made.transpose();
                this.over = !matches!(token, Some(Ok(_)));
                Poll::Ready(token)
            }
        }
    }
}

impl Generator {
    /// Answers a request, token by token.
    ///
    /// ```no_run
    /// use warpweft::{Generator, Message, Options, Request};
    ///
    /// # async fn ask() -> warpweft::Result<()> {
    /// let mut model = Generator::open("model.gguf", &Options::new()).await?;
    /// let prompt = model.chat_prompt(&[Message::new("user", "What is the capital of France?")])?;
    /// let mut tokens = model.stream(&Request::new(prompt).max_tokens(64))?;
    /// while let Some(token) = tokens.next().await {
    ///     print!("{}", token?.text);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An empty prompt or one longer than the context; numbers of the sampling that are out of range.
    pub fn stream(&mut self, request: &Request) -> Result<Tokens<'_>> {
        self.stream_on(0, request)
    }

    /// Like [`Generator::stream`], on one of the replicas.
    pub fn stream_on(&mut self, replica: usize, request: &Request) -> Result<Tokens<'_>> {
        let generation = Box::new(self.begin_on(replica, request)?);
        Ok(Tokens { cancel: Cancel::new(), stage: Stage::Between(self, generation), over: false })
    }
}

/// For the project's own tests, which look at tokens in the middle of an answer.
#[cfg(feature = "internals")]
impl Generator {
    /// Generates, telling each token as it comes.
    ///
    /// # Errors
    /// Those of [`Generator::stream`] and [`Generator::next`].
    pub async fn generate(
        &mut self,
        request: &Request,
        cancel: &std::sync::atomic::AtomicBool,
        on_token: &mut dyn FnMut(&Token) -> Result<()>,
    ) -> Result<Finished> {
        self.generate_on(0, request, cancel, on_token).await
    }

    /// Like [`Generator::generate`], on one of the replicas.
    pub async fn generate_on(
        &mut self,
        replica: usize,
        request: &Request,
        cancel: &std::sync::atomic::AtomicBool,
        on_token: &mut dyn FnMut(&Token) -> Result<()>,
    ) -> Result<Finished> {
        let mut generation = self.begin_on(replica, request)?;
        while let Some(token) = self.next_until(&mut generation, cancel).await? {
            on_token(&token)?;
        }
        Ok(self.finished(&generation))
    }
}
