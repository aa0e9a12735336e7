//! `run` and `chat`.

use super::interrupt::{self, Interrupt};
use super::{Choosing, Place, fetch, notify, style};
use crate::base::{Error, Result};
use crate::session::{Finished, Generator, Request, Stop, Tokens};
use crate::text::Message;
use clap::Args;
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Run {
    /// A name of the catalogue (see `models`), a .gguf file, or a model folder
    model: String,
    /// What to answer; given several times, each is answered (by replicas in turn, with --mesh dp=N); read from stdin where not given, or -
    #[arg(short, long)]
    prompt: Vec<String>,
    /// Continue the text as it is, without the model's chat form
    #[arg(long)]
    raw: bool,
    /// The system message of the chat form
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// The most tokens to make
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// One JSON object a line: each token with its alternatives, then the figures
    #[arg(long)]
    json: bool,
    /// Time every dispatch of a decode step (on a mesh: what every rank and link does) and write a Chrome/Perfetto trace
    #[arg(long, value_name = "FILE", visible_alias = "trace")]
    profile: Option<PathBuf>,
    /// The same as a picture
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    place: Place,
}

impl Run {
    pub async fn run(&self) -> Result<ExitCode> {
        self.choosing.sampling().validate()?;
        let interrupt = Interrupt::new();
        let path = fetch::resolve(&self.model, &self.place.cache, &interrupt)?;
        let texts = match self.prompt.as_slice() {
            [] => vec![read_prompt()?],
            given => texts(given)?,
        };
        let mut model = Generator::open_telling(path, &self.place.options(&interrupt)?, &mut notify).await?;
        style::clear();
        if self.profile.is_some() || self.timeline.is_some() {
            model.can_trace()?;
        }
        let mut code = ExitCode::SUCCESS;
        for (i, text) in texts.iter().enumerate() {
            let replica = i % model.replicas();
            let (plays, leads) = model.role(replica);
            if !plays {
                continue;
            }
            style::quiet(!leads);
            if texts.len() > 1 && !self.json {
                style::note(&format!("{text} (replica {replica})"));
            }
            let request = self.request(&model, text)?;
            let ask = Ask { model: &mut model, replica, request: &request, interrupt: &interrupt };
            code = if self.json { json(ask).await? } else { self.plain(ask).await? };
            if code != ExitCode::SUCCESS {
                break;
            }
        }
        if code == ExitCode::SUCCESS {
            self.traces(&mut model).await?;
        }
        model.close()?;
        Ok(code)
    }

    fn request(&self, model: &Generator, text: &str) -> Result<Request> {
        if self.system.is_some() && !model.is_chat() {
            let hint = "put what it says into the prompt";
            return Err(Error::usage(format!(
                "--system needs a chat template, which {} has not: {hint}",
                model.info().name
            )));
        }
        let prompt = if self.raw || !model.is_chat() {
            model.raw_prompt(text)?
        } else {
            let system = self.system.iter().map(|s| Message::new("system", s));
            model.chat_prompt(&system.chain([Message::new("user", text)]).collect::<Vec<_>>())?
        };
        let top = if self.json { 10 } else { 0 };
        Ok(Request { prompt, sampling: self.choosing.sampling(), max_tokens: self.max_tokens, top })
    }

    async fn traces(&self, model: &mut Generator) -> Result<()> {
        if self.profile.is_none() && self.timeline.is_none() {
            return Ok(());
        }
        let trace = model.trace().await?;
        let files = [(&self.profile, trace.to_json()), (&self.timeline, trace.to_svg())];
        for (file, text) in files.into_iter().filter_map(|(f, t)| f.as_ref().map(|f| (f, t))) {
            std::fs::write(file, text).map_err(|e| Error::file(file, format!("cannot be written: {e}")))?;
            style::note(&format!("wrote {} spans to {}", trace.spans.len(), file.display()));
        }
        Ok(())
    }

    async fn plain(&self, ask: Ask<'_>) -> Result<ExitCode> {
        let Ask { model, replica, request, interrupt } = ask;
        // Several processes share one terminal: each tells its answer at once.
        let held = model.is_shared() && model.replicas() > 1;
        let answer = stream(Ask { model, replica, request, interrupt }, held).await?;
        style::out(&if held { format!("{}\n", answer.text) } else { "\n".into() });
        style::note(&figures(&answer.done));
        if let Some((bytes, messages)) = model.sent() {
            let ranks: Vec<String> =
                model.rank_bytes().iter().map(|(r, b)| format!("{r}: {}", style::bytes(*b))).collect();
            style::note(&format!(
                "memory by rank {}; {} sent in {messages} messages",
                ranks.join(", "),
                style::bytes(bytes)
            ));
        }
        Ok(exit_code(&answer.done, answer.read))
    }
}

/// A request to one replica.
struct Ask<'a> {
    model: &'a mut Generator,
    replica: usize,
    request: &'a Request,
    interrupt: &'a Interrupt,
}

async fn json(Ask { model, replica, request, interrupt }: Ask<'_>) -> Result<ExitCode> {
    let mut read = true;
    let mut tokens = model.stream_on(replica, request)?.until(&interrupt.cancel);
    while let Some(token) = tokens.next().await {
        let t = token?;
        let top: Vec<_> = t.top.iter().map(|a| json!({ "id": a.id, "text": a.text, "logprob": a.logprob })).collect();
        if !style::out(&format!("{}\n", json!({ "id": t.id, "text": t.text, "logprob": t.logprob, "top": top }))) {
            // Nobody reads any more.
            read = false;
            interrupt.cancel.cancel();
        }
    }
    let done = ended(&tokens)?;
    interrupt.heard();
    let line = json!({ "done": {
        "stop": done.stop.name(), "prompt_ids": request.prompt, "adapter": done.adapter,
        "prompt_tokens_per_s": done.prompt_per_second, "tokens_per_s": done.tokens_per_second, "peak_bytes": done.peak_bytes,
    }});
    style::out(&format!("{line}\n"));
    Ok(exit_code(&done, read))
}

/// The most bytes that are read of stdin: far more than any context holds.
const MAX_STDIN: u64 = 64 << 20;

/// What standard input holds, without the mark of its encoding and its last newline, which are no part of the text.
fn read_stdin() -> Result<String> {
    let mut bytes = vec![];
    let fail = |what: String| Error::usage(format!("stdin {what}; give the text as an argument"));
    let read = std::io::stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.map_err(|e| fail(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(fail(format!("holds more than {MAX_STDIN} bytes")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| fail(format!("is not UTF-8 from byte {} on", e.utf8_error().valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.strip_suffix("\r\n").or(text.strip_suffix('\n')).unwrap_or(text);
    Ok(text.to_string())
}

/// Texts of the command line, of which `-` is standard input.
pub(super) fn texts(given: &[String]) -> Result<Vec<String>> {
    if given.iter().filter(|t| *t == "-").count() > 1 {
        return Err(Error::usage("stdin is named twice: it can be read once"));
    }
    given.iter().map(|t| if t == "-" { read_stdin() } else { Ok(t.clone()) }).collect()
}

fn read_prompt() -> Result<String> {
    if std::io::stdin().is_terminal() {
        style::note("the prompt (Ctrl-D ends it):");
    }
    read_stdin()
}

/// A reader that has gone (`| head`) had what it wanted; Ctrl-C is told to the shell.
fn exit_code(done: &Finished, read: bool) -> ExitCode {
    if done.stop == Stop::Cancelled && read { ExitCode::from(interrupt::CODE) } else { ExitCode::SUCCESS }
}

/// The figures of an answer that has ended.
fn ended(tokens: &Tokens<'_>) -> Result<Finished> {
    tokens.figures().ok_or_else(|| Error::usage("a token is still being computed: this is a bug"))
}

/// What came of a request.
struct Answer {
    done: Finished,
    text: String,
    /// Whether stdout was read to the end.
    read: bool,
}

/// Writes tokens as they come.
async fn stream(Ask { model, replica, request, interrupt }: Ask<'_>, held: bool) -> Result<Answer> {
    let (mut text, mut read) = (String::new(), true);
    style::status(&format!("reading {} tokens", request.prompt.len()));
    let mut tokens = model.stream_on(replica, request)?.until(&interrupt.cancel);
    while let Some(token) = tokens.next().await {
        let token = token?;
        text.push_str(&token.text);
        if !held && !style::out(&token.text) {
            // Nobody reads any more.
            read = false;
            interrupt.cancel.cancel();
        }
    }
    let done = ended(&tokens)?;
    interrupt.heard();
    Ok(Answer { done, text, read })
}

/// The closing line.
fn figures(f: &Finished) -> String {
    let stop = match f.stop {
        Stop::End => "end of turn",
        Stop::Length => "as long as asked for (-n)",
        Stop::Context => "the context is full (--ctx)",
        Stop::Cancelled => "cancelled",
    };
    format!(
        "{}: prompt {} tokens, {:.1} tokens/s; generated {} tokens, {:.1} tokens/s; peak memory {}; {stop}",
        f.adapter,
        f.prompt_tokens,
        f.prompt_per_second,
        f.tokens,
        f.tokens_per_second,
        style::bytes(f.peak_bytes)
    )
}

#[derive(Args)]
pub struct Chat {
    /// A name of the catalogue (see `models`), a .gguf file, or a model folder
    model: String,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The most tokens of an answer
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    #[command(flatten)]
    choosing: Choosing,
    #[command(flatten)]
    place: Place,
}

impl Chat {
    pub async fn run(&self) -> Result<()> {
        self.choosing.sampling().validate()?;
        let interrupt = Interrupt::new();
        let path = fetch::resolve(&self.model, &self.place.cache, &interrupt)?;
        let mut model = Generator::open_telling(path, &self.place.options(&interrupt)?, &mut notify).await?;
        style::note(&format!(
            "{} on {}; an empty line or Ctrl-D ends, Ctrl-C stops an answer, /new starts anew",
            model.info().name,
            model.adapter()
        ));
        let mut lines =
            rustyline::DefaultEditor::new().map_err(|e| Error::usage(format!("the terminal cannot be used: {e}")))?;
        let system: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        let mut talk = system.clone();
        while let Ok(line) = lines.readline("> ") {
            if line.trim().is_empty() {
                break;
            }
            let _ = lines.add_history_entry(&line);
            if line.trim() == "/new" {
                talk.clone_from(&system);
                continue;
            }
            talk.push(Message::new("user", &line));
            interrupt.reset();
            match self.answer(&mut model, &talk, &interrupt).await {
                Ok(answer) if !answer.read => break,
                Ok(answer) => {
                    style::out("\n");
                    style::note(&figures(&answer.done));
                    interrupt.reset();
                    talk.push(Message::new("assistant", answer.text));
                }
                Err(e) => {
                    // A turn that does not fit is told and dropped; the talk goes on.
                    style::error(&e.to_string());
                    talk.pop();
                }
            }
        }
        Ok(())
    }
}

impl Chat {
    async fn answer(&self, model: &mut Generator, talk: &[Message], interrupt: &Interrupt) -> Result<Answer> {
        let prompt = model.chat_prompt(talk)?;
        let request = Request { prompt, sampling: self.choosing.sampling(), max_tokens: self.max_tokens, top: 0 };
        stream(Ask { model, replica: 0, request: &request, interrupt }, false).await
    }
}
