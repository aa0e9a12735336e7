//! The engine thread as a Rust program uses it.

use super::{ENDLESS, cpu, eventually, tiny_file};
use pollster::block_on;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use warpweft::base::Error;
use warpweft::serve::{Answer, Ended, Engine, Limits, Loaded, Reason, Request};
use warpweft::session::{Generator, Options, Request as Generate, Token};
use warpweft::text::Sampling;

fn engine(context: usize, limits: Limits) -> (super::Folder, Engine) {
    let (folder, path) = tiny_file(context);
    let engine = Engine::open(path, &Options { context: Some(context), ..cpu() }, limits);
    block_on(engine.ready()).unwrap();
    (folder, engine)
}

fn request(engine: &Engine, text: &str, max_tokens: usize) -> Request {
    let card = block_on(engine.ready()).unwrap();
    let mut request = Request::new(card.words().unwrap().raw_prompt(text).unwrap());
    request.generate.max_tokens = Some(max_tokens);
    // It never ends its turn by itself.
    request.generate.sampling.logit_bias = vec![(0, -100.0)];
    request
}

fn all(mut answer: Answer) -> (Vec<Token>, Ended) {
    let mut tokens = vec![];
    while let Some(token) = block_on(answer.next()).unwrap() {
        tokens.push(token);
    }
    (tokens, answer.ended().unwrap().clone())
}

#[test]
fn what_callers_hold_goes_between_threads() {
    fn send<T: Send>() {}
    fn both<T: Send + Sync>() {}
    both::<Engine>();
    both::<warpweft::serve::Card>();
    both::<warpweft::serve::State>();
    both::<Ended>();
    send::<Request>();
    send::<Answer>();
}

#[test]
fn an_answer_is_what_the_generator_gives_alone() {
    let (folder, path) = tiny_file(256);
    let mut generator = block_on(Generator::open(&path, &cpu())).unwrap();
    let engine = Engine::open(&path, &cpu(), Limits::default());
    let how = [Sampling::greedy(), Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }];
    let prompts = ["the hen", "the hen and the", "a", "the hen"];
    let ask = |text: &str, how: &Sampling| Generate {
        prompt: generator.raw_prompt(text).unwrap(),
        sampling: how.clone(),
        max_tokens: Some(20),
        top: 2,
    };
    let asked: Vec<Generate> = how.iter().flat_map(|h| prompts.map(|p| ask(p, h))).collect();
    // All wait at once: the engine's order and its cache change nothing.
    let answers: Vec<Answer> =
        asked.iter().map(|g| engine.submit(Request { generate: g.clone(), ..Request::new(vec![]) }).unwrap()).collect();
    for (generate, answer) in asked.iter().zip(answers) {
        let (tokens, ended) = all(answer);
        let mut want = vec![];
        let mut keep = |t: &Token| {
            want.push((t.id, t.text.clone(), t.logprob.to_bits()));
            Ok(())
        };
        let done = block_on(generator.generate(generate, &Default::default(), &mut keep)).unwrap();
        if done.stop == warpweft::session::Stop::End {
            want.pop();
        }
        assert_eq!(tokens.iter().map(|t| (t.id, t.text.clone(), t.logprob.to_bits())).collect::<Vec<_>>(), want);
        assert_eq!((ended.tokens, ended.prompt_tokens), (done.tokens, generate.prompt.len()));
        assert!(tokens.iter().all(|t| t.top.len() == 2));
    }
    drop(folder);
}

#[test]
fn a_full_queue_refuses_and_priorities_go_first() {
    let (_folder, engine) = engine(ENDLESS, Limits { queue: 3, parallel: 1, ..Limits::default() });
    let mut running = engine.submit(request(&engine, "a", ENDLESS - 100)).unwrap();
    block_on(running.next()).unwrap().unwrap();
    let ask = |priority| engine.submit(Request { priority, ..request(&engine, "b", 1) }).unwrap();
    let (low, high, low_too) = (ask(0), ask(5), ask(0));
    let busy = engine.submit(request(&engine, "c", 1)).err().unwrap();
    assert_eq!(busy, Error::Busy { waiting: 3 });
    assert_eq!(busy.to_string(), "3 requests wait already: try again later");
    drop(running);
    let waited: Vec<Duration> = [high, low, low_too].map(|a| all(a).1.waited).to_vec();
    assert!(waited[0] < waited[1], "{waited:?}");
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn dropping_an_answer_cancels_it_within_a_step() {
    let (_folder, engine) = engine(ENDLESS, Limits::default());
    let count = || engine.metrics().generated_tokens.load(Ordering::Relaxed);
    let mut answer = engine.submit(request(&engine, "a", ENDLESS - 100)).unwrap();
    let waiting = engine.submit(request(&engine, "b", 400)).unwrap();
    block_on(answer.next()).unwrap().unwrap();
    // Who waits takes no step at all.
    drop(waiting);
    assert_eq!(engine.waiting(), 0);
    drop(answer);
    eventually("the cancel", || engine.metrics().cancelled.load(Ordering::Relaxed) == 2);
    let made = count();
    assert!(made < ENDLESS as u64 - 100, "{made}");
    // The engine is none the worse.
    let (tokens, ended) = all(engine.submit(request(&engine, "c", 3)).unwrap());
    assert_eq!((ended.tokens, ended.reason.clone()), (3, Reason::Length), "{tokens:?}");
    assert_eq!(count(), made + 3);
}

#[test]
fn deadlines_end_what_runs_and_what_waits() {
    let (_folder, engine) = engine(ENDLESS, Limits { parallel: 1, ..Limits::default() });
    let soon = |millis| Some(Instant::now() + Duration::from_millis(millis));
    let run = Request { deadline: soon(200), ..request(&engine, "a", ENDLESS - 100) };
    let mut running = engine.submit(run).unwrap();
    let mut waiting = engine.submit(Request { deadline: soon(100), ..request(&engine, "b", 20) }).unwrap();
    let start = Instant::now();
    assert_eq!(block_on(waiting.next()).unwrap_err(), Error::Deadline);
    let ended = loop {
        match block_on(running.next()) {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(ended.unwrap_err(), Error::Deadline);
    assert!(start.elapsed() < Duration::from_secs(20));
    // It is said once; then the answer is over.
    assert!(matches!(block_on(running.next()), Ok(None)));
    let past = Request { deadline: Some(Instant::now()), ..request(&engine, "c", 1) };
    assert_eq!(engine.submit(past).err(), Some(Error::Deadline));
}

#[test]
fn waiting_holds_no_thread() {
    let (_folder, engine) = engine(ENDLESS, Limits::default());
    let mut running = engine.submit(request(&engine, "a", ENDLESS - 100)).unwrap();
    block_on(running.next()).unwrap().unwrap();
    let mut second = engine.submit(request(&engine, "b", 1)).unwrap();
    // A poll comes back at once, with nothing.
    let mut next = pin!(second.next());
    assert!(matches!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    drop(running);
    block_on(next).unwrap().unwrap();
}

#[test]
fn stop_strings_end_answers_before_they_are_seen() {
    let (_folder, engine) = engine(512, Limits::default());
    let text = |tokens: &[Token]| tokens.iter().map(|t| t.text.as_str()).collect::<String>();
    let (tokens, _) = all(engine.submit(request(&engine, "the", 40)).unwrap());
    let whole = text(&tokens);
    let chars: Vec<char> = whole.chars().collect();
    assert!(chars.len() > 12, "{whole:?}");
    for (from, to) in [(3, 5), (5, 6), (4, 9), (0, 2)] {
        let stop: String = chars[from..to].iter().collect();
        let before = whole.find(&stop).unwrap();
        let (tokens, ended) = all(engine
            .submit(Request { stop: vec!["\u{1}".into(), stop.clone()], ..request(&engine, "the", 40) })
            .unwrap());
        assert_eq!(text(&tokens), whole[..before], "{stop:?}");
        assert_eq!(ended.reason, Reason::StopString(stop));
        assert!(ended.tokens < 40);
    }
    let bad = |stop: &str| {
        let request = Request { stop: vec![stop.into()], ..request(&engine, "a", 1) };
        engine.submit(request).err().unwrap().to_string()
    };
    assert_eq!(bad(""), "a stop string has 0 bytes, 1 to 1024 are taken");
    assert_eq!(bad(&"x".repeat(1025)), "a stop string has 1025 bytes, 1 to 1024 are taken");
}

#[test]
fn prompts_that_begin_alike_are_not_computed_anew() {
    let (_folder, engine) = engine(512, Limits::default());
    let long = "the hen ".repeat(20);
    let (_, first) = all(engine.submit(request(&engine, &long, 1)).unwrap());
    let (_, second) = all(engine.submit(request(&engine, &format!("{long} again"), 1)).unwrap());
    assert_eq!(first.cached_tokens, 0);
    // Whole pages of 32 tokens are shared.
    assert!(second.cached_tokens + 32 >= first.prompt_tokens - 2 && second.cached_tokens % 32 == 0, "{second:?}");
    let counted = engine.metrics().cached_tokens.load(Ordering::Relaxed);
    assert_eq!(counted, second.cached_tokens as u64);
}

#[test]
fn what_cannot_be_opened_is_told_to_all_who_wait() {
    let opened = Arc::new(AtomicUsize::new(0));
    let own = opened.clone();
    let engine = Engine::spawn(Limits::default(), move |_| {
        own.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        Err(Error::usage("the shelf is empty"))
    });
    let mut early = engine.submit(Request::new(vec![1])).unwrap();
    assert_eq!(block_on(early.next()).unwrap_err().to_string(), "the shelf is empty");
    assert_eq!(block_on(engine.ready()).unwrap_err().to_string(), "the shelf is empty");
    assert!(matches!(engine.submit(Request::new(vec![1])), Err(Error::Closed(_))));
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

#[test]
fn an_engine_that_is_dropped_or_panics_leaves_nobody_waiting() {
    let (_folder, engine) = engine(512, Limits::default());
    let mut answer = engine.submit(request(&engine, "a", 5)).unwrap();
    // The answer keeps its engine.
    drop(engine);
    assert!(block_on(answer.next()).unwrap().is_some());
    drop(answer);
    let engine = Engine::spawn(Limits::default(), |_| -> warpweft::base::Result<Loaded> { panic!("on purpose") });
    let e = block_on(engine.ready()).unwrap_err();
    assert_eq!(e.to_string(), "the engine has ended");
}

#[test]
fn a_device_that_is_lost_is_opened_anew_and_all_answers_go_on() {
    let Some(index) = crate::common::needed_adapter() else { return };
    let (_folder, path) = tiny_file(256);
    let device = Arc::new(std::sync::Mutex::new(None));
    let own = device.clone();
    let engine = Engine::spawn(Limits::default(), move |_| {
        let options =
            warpweft::session::Options { device: warpweft::session::DeviceChoice::Index(index), ..Default::default() };
        let generator = block_on(Generator::open(&path, &options))?;
        *own.lock().unwrap() = generator.gpu().cloned();
        Ok(Loaded::Generator(generator))
    });
    let ask = |text: &str| engine.submit(request(&engine, text, 24)).unwrap();
    let ids = |answer| all(answer).0.iter().map(|t| t.id).collect::<Vec<_>>();
    let want = [ids(ask("the hen")), ids(ask("a"))];
    let (mut first, second) = (ask("the hen"), ask("a"));
    let mut got = vec![];
    for _ in 0..5 {
        got.push(block_on(first.next()).unwrap().unwrap().id);
    }
    device.lock().unwrap().take().unwrap().destroy();
    got.extend(ids(first));
    assert_eq!([got, ids(second)], want);
    assert_eq!(engine.metrics().devices_lost.load(Ordering::Relaxed), 1);
}

/// At random points: while a prompt is read, between tokens, behind the last.
#[test]
fn twenty_of_twenty_losses_change_no_token() {
    let Some(index) = crate::common::needed_adapter() else { return };
    let (_folder, path) = tiny_file(256);
    let device = Arc::new(std::sync::Mutex::new(None));
    let own = device.clone();
    let options = Options { device: warpweft::session::DeviceChoice::Index(index), ..Default::default() };
    let engine = Engine::spawn(Limits::default(), move |_| {
        let generator = block_on(Generator::open(&path, &options))?;
        *own.lock().unwrap() = generator.gpu().cloned();
        Ok(Loaded::Generator(generator))
    });
    let ids = |answer| all(answer).0.iter().map(|t| t.id).collect::<Vec<_>>();
    let mut random = warpweft::reference::sample::Random::new(20);
    let mut lost = 0;
    for round in 0..20 {
        let text = ["the hen", "a", "the hen and the horse", "b c d"][round % 4];
        let ask = || {
            let mut request = request(&engine, text, 16);
            request.generate.sampling =
                Sampling { temperature: 1.0, seed: round as u64, logit_bias: vec![(0, -100.0)], ..Sampling::default() };
            engine.submit(request).unwrap()
        };
        let want = ids(ask());
        let mut answer = ask();
        let mut got = vec![];
        for _ in 0..random.below(16) {
            got.push(block_on(answer.next()).unwrap().unwrap().id);
        }
        device.lock().unwrap().as_ref().unwrap().destroy();
        got.extend(ids(answer));
        assert_eq!(got, want, "round {round}");
        // A loss behind the last token is met by who comes next.
        assert_eq!(ids(ask()), want, "round {round}, after");
        lost += 1;
        assert_eq!(engine.metrics().devices_lost.load(Ordering::Relaxed), lost);
    }
}
