//! `simulate --compare`: a measured trace beside the predicted one.

use crate::base::Result;
use crate::simulate::compare;
use crate::trace::Trace;
use std::path::Path;

/// Traces are read whole: no larger ones.
const MOST: u64 = 1 << 30;

pub fn against(predicted: &Trace, path: &Path) -> Result<compare::Comparison> {
    let text = crate::cli::read_text(path, "trace", (MOST, "1 GiB"))?;
    Ok(compare::compare(predicted, &Trace::from_json(&text, &path.display().to_string())?))
}
