//! Templates render as Jinja2 renders them in transformers' environment (tests/figures/templates.py).

use serde::Deserialize;
use warpweft::text::{ChatTemplate, Variable};

#[derive(Deserialize)]
struct Figures {
    variables: Vec<Variable>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    name: String,
    template: String,
    variables: usize,
    text: Option<String>,
    error: Option<String>,
}

fn render(case: &Case, variables: &[Variable]) -> warpweft::base::Result<String> {
    let Variable::Dict(pairs) = &variables[case.variables] else { panic!("variables are a dict") };
    let pairs: Vec<(&str, Variable)> = pairs.iter().map(|(k, v)| (&**k, v.clone())).collect();
    ChatTemplate::new(&case.template)?.render_with(&pairs)
}

/// What is wrong with each case.
fn faults(text: &str) -> (usize, Vec<String>) {
    let figures: Figures = serde_json::from_str(text).unwrap();
    let mut wrong = vec![];
    for case in &figures.cases {
        let name = if case.name.is_empty() { &case.template } else { &case.name };
        match (render(case, &figures.variables), &case.text, &case.error) {
            (Ok(got), Some(want), _) if got == *want => {}
            (Ok(got), Some(want), _) => {
                let same = got.bytes().zip(want.bytes()).take_while(|(a, b)| a == b).count();
                let cut = |s: &str| {
                    s.chars()
                        .skip(got[..same.min(got.len())].chars().count().saturating_sub(40))
                        .take(120)
                        .collect::<String>()
                };
                wrong.push(format!("{name}\n   gave  {:?}\n   right {:?}", cut(&got), cut(want)));
            }
            (Ok(got), None, Some(error)) => wrong
                .push(format!("{name}\n   gave {:?}, it raises {error}", got.chars().take(120).collect::<String>())),
            (Err(e), Some(want), _) => {
                wrong.push(format!("{name}\n   said {e}\n   right {:?}", want.chars().take(120).collect::<String>()))
            }
            // Messages that a template raises are its own.
            (Err(e), None, Some(error)) => {
                if let Some(own) = error.strip_prefix("TemplateError: ") {
                    let own: String = own.chars().take(60).collect();
                    let own = warpweft::base::plain(&own, 100);
                    if !e.to_string().contains(&own) {
                        wrong.push(format!("{name}\n   said {e}\n   right {error}"));
                    }
                }
            }
            (_, None, None) => panic!("{name}: a case without a figure"),
        }
    }
    (figures.cases.len(), wrong)
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let (n, wrong) = faults(include_str!("../figures/templates.json"));
    assert!(n > 100);
    assert!(wrong.is_empty(), "{} of {n} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Templates of a folder, whose figures tests/figures/templates.py has written to a file.
#[test]
fn templates_of_a_folder_render_as_transformers_renders_them() {
    let Ok(path) = std::env::var("WARPWEFT_TEMPLATES") else {
        return crate::common::skip("WARPWEFT_REQUIRE_TEMPLATES", "WARPWEFT_TEMPLATES names no file of figures");
    };
    let (n, wrong) = faults(&std::fs::read_to_string(path).unwrap());
    assert!(wrong.is_empty(), "{} of {n} differ:\n{}", wrong.len(), wrong.join("\n"));
}
