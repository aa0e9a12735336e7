//! A graph as text: one node a line, for people and for snapshots.

use super::{Graph, Source};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            write!(f, "%{i} = {}", node.kind())?;
            for (j, arg) in node.args().iter().enumerate() {
                write!(f, "{}%{}", if j == 0 { " " } else { ", " }, arg.0)?;
            }
            match &node.source {
                Source::Op { attrs, .. } => {
                    let attrs = attrs.to_string();
                    write!(f, "{}{attrs}", if attrs.is_empty() { "" } else { "  " })?;
                }
                Source::Const(x) => write!(f, " {x}")?,
                Source::Weight { parts } if parts.len() > 1 => {
                    write!(f, " of {}", parts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" + "))?
                }
                _ => {}
            }
            writeln!(f, " : {}  \"{}\"", node.ty, node.name)?;
        }
        for (name, v) in &self.outputs {
            writeln!(f, "output {name} = %{}", v.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::GraphBuilder;
    use crate::base::{DType, Var};

    #[test]
    fn a_small_graph_prints() {
        let g = GraphBuilder::new();
        let seq = Var::new("seq", 8);
        let x = g.input("x", DType::F32, vec![seq.into(), 4.into()]).unwrap();
        g.at("layers.0.up");
        let w = g.weight("w", DType::Q8_0, [6, 4]).unwrap();
        let y = x.matmul_t(w).unwrap().gelu().unwrap();
        g.output("y", y).unwrap();
        assert_eq!(
            g.finish().to_string(),
            "%0 = input : f32[seq, 4]  \"x\"\n\
             %1 = weight : q8_0[6, 4]  \"w\"\n\
             %2 = matmul %0, %1  ta=false tb=true : f32[seq, 6]  \"layers.0.up\"\n\
             %3 = gelu %2 : f32[seq, 6]  \"layers.0.up\"\n\
             output y = %3\n"
        );
    }

    #[test]
    fn errors_name_the_op_the_node_and_the_numbers() {
        let g = GraphBuilder::new();
        let x = g.input("x", DType::F32, [2, 4096]).unwrap();
        let w = g.input("w", DType::F32, [4095, 8]).unwrap();
        g.at("layers.3.q");
        let e = x.matmul(w).unwrap_err();
        assert_eq!(e.to_string(), "matmul \"layers.3.q\": inner dimensions differ, 4096 and 4095");
    }

    #[test]
    fn a_state_is_written_before_it_is_read() {
        let g = GraphBuilder::new();
        let s = g.state("s", DType::F32, [4, 2]).unwrap();
        let x = g.input("x", DType::F32, [1, 2]).unwrap();
        s.exp().unwrap();
        assert!(s.append(x, 0).unwrap_err().to_string().contains("append first"));
        assert!(x.append(x, 0).unwrap_err().to_string().contains("must be a state"));
    }
}
