//! What `--help` of each command ends with. A test parses every line, so that none grows old.

/// Commands with their examples, one a line.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "run",
        &[
            "warpweft run smollm2-135m -p \"What is the capital of France?\"",
            "warpweft run ./model-Q4_K_M.gguf -p \"A haiku about rain\" --temp 0.8 --seed 7 -n 100",
            "warpweft run smollm2-135m -p \"Once upon a time\" --raw --mesh tp=3 --timeline ranks.svg",
        ],
    ),
    ("chat", &["warpweft chat smollm2-135m --system \"Answer in one sentence.\""]),
    (
        "embed",
        &[
            "warpweft embed minilm \"a cat sleeps\" \"a dog barks\" --similarity",
            "warpweft embed ./clip-vit-base-patch32 --image photo.jpg \"a cat\" \"a dog\" --similarity",
        ],
    ),
    (
        "transcribe",
        &[
            "warpweft transcribe ./whisper-tiny.en speech.wav",
            "warpweft transcribe ./whisper-tiny talk.wav --language de --timestamps",
        ],
    ),
    ("pull", &["warpweft pull smollm2-135m"]),
    ("models", &["warpweft models"]),
    ("devices", &["warpweft devices --probe"]),
    ("inspect", &["warpweft inspect ./model-Q4_K_M.gguf"]),
    ("plan", &["warpweft plan smollm2-135m --mesh tp=4 --explain", "warpweft plan smollm2-135m --floor --wgsl 3"]),
    ("cluster", &["warpweft cluster list", "warpweft cluster show dgx-h100 --svg machine.svg"]),
    (
        "simulate",
        &[
            "warpweft simulate llama-3-70b --cluster dgx-h100 --nodes 8 --search",
            "warpweft simulate llama-3-70b --cluster dgx-h100 --mesh tp=8 --serve continuous --load 4",
            "warpweft simulate smollm2-135m --here",
        ],
    ),
    ("validate", &["warpweft validate --split", "warpweft validate --table mine.csv --as serving"]),
    ("quantize", &["warpweft quantize model-f16.gguf model-q4_k_m.gguf --to q4_k_m --text prose.txt"]),
    ("tune", &["warpweft tune --device 0"]),
    ("serve", &["warpweft serve smollm2-135m minilm", "warpweft serve chat=./model-Q4_K_M.gguf --port 9000"]),
    ("web", &["scripts/wasm.sh && warpweft web"]),
];

/// The command with its examples in the help of each subcommand.
pub(super) fn with_examples(command: clap::Command) -> clap::Command {
    let there: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
    EXAMPLES.iter().filter(|(name, _)| there.iter().any(|t| t == name)).fold(command, |command, (name, lines)| {
        let title = if lines.len() == 1 { "Example" } else { "Examples" };
        command.mut_subcommand(name, |c| c.after_help(format!("{title}:\n  {}", lines.join("\n  "))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Words of a shell's line: spaces part them, but not between quotes.
    fn words(line: &str) -> Vec<String> {
        let mut out = vec![];
        for (i, piece) in line.split('"').enumerate() {
            match i % 2 {
                0 => out.extend(piece.split_whitespace().map(String::from)),
                _ => out.push(piece.into()),
            }
        }
        out
    }

    #[test]
    fn every_command_ends_its_help_with_examples_that_parse() {
        let command = crate::cli::Cli::command();
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let Some((_, lines)) = EXAMPLES.iter().find(|e| e.0 == sub.get_name()) else {
                panic!("{} has no example", sub.get_name())
            };
            for line in *lines {
                let own = &line[line.find("warpweft ").unwrap()..];
                let parsed = with_examples(command.clone()).try_get_matches_from(words(own));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
            let help = with_examples(command.clone()).find_subcommand_mut(sub.get_name()).unwrap().render_help();
            assert!(help.to_string().trim_end().ends_with(lines[lines.len() - 1]), "{help}");
        }
    }
}
