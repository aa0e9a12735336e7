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
        let x = g.input("x", DType::F32, vec![seq.into(), 4.into()]);
        g.at("layers.0.up");
        let w = g.weight("w", crate::base::TYPICAL, [6, 4]);
        let y = x.matmul_t(w).gelu();
        g.output("y", y);
        assert_eq!(
            g.finish().unwrap().to_string(),
            "%0 = input : f32[seq, 4]  \"x\"\n\
             %1 = weight : q4_1[6, 4]  \"w\"\n\
             %2 = matmul %0, %1  ta=false tb=true : f32[seq, 6]  \"layers.0.up\"\n\
             %3 = gelu %2 : f32[seq, 6]  \"layers.0.up\"\n\
             output y = %3\n"
        );
    }

    #[test]
    fn errors_name_the_op_the_node_and_the_numbers() {
        let g = GraphBuilder::new();
        let x = g.input("x", DType::F32, [2, 4096]);
        let w = g.input("w", DType::F32, [4095, 8]);
        g.at("layers.3.q");
        // What follows an error does nothing, and the first is what comes out.
        let y = 2.0 * -x.matmul(w).softmax().sum(&[7]) + w;
        assert_eq!((y.shape().rank(), y.dim(3), format!("{y:?}").as_str()), (0, crate::base::Dim::new(1), "poisoned"));
        y.append(w, 0).place(crate::base::MeshAxis::Tensor, crate::base::Placement::Whole);
        g.output("y", y.cross_entropy(w));
        assert_eq!(g.gradients(y, &[x, w]).len(), 2);
        let e = g.finish().unwrap_err();
        assert_eq!(e.to_string(), "matmul \"layers.3.q\": inner dimensions differ, 4096 and 4095");
    }

    #[test]
    fn outside_of_a_place_errors_name_what_made_the_node() {
        let said = |build: fn(&GraphBuilder)| {
            let g = GraphBuilder::new();
            build(&g);
            g.finish().unwrap_err().to_string()
        };
        assert_eq!(
            said(|g| _ = (g.input("x", DType::F32, [2, 3]) * 0.5).gelu().matmul(g.weight("w", DType::F32, [4, 3]))),
            "matmul \"matmul(gelu(mul(x, 0.5)), w)\": inner dimensions differ, 3 and 4"
        );
        assert_eq!(
            said(|g| _ = g.input("x", DType::F32, [3]).cross_entropy(g.input("t", DType::U32, [3]))),
            "cross_entropy \"x\": logits are [3], they must be [n, kinds]"
        );
        assert_eq!(
            said(|g| g.output("y", GraphBuilder::new().constant(1.0))),
            "a tensor of another graph was given: build all operands with one GraphBuilder"
        );
    }

    #[test]
    fn an_error_that_is_taken_lets_the_graph_go_on() {
        let g = GraphBuilder::new();
        let x = g.input("x", DType::F32, [2, 3]);
        let bad = x.matmul(x);
        assert!(g.take_error().unwrap().to_string().contains("inner dimensions differ"));
        let _ = x + 1.0;
        assert!(g.take_error().is_none());
        let _ = bad + 1.0;
        assert!(g.finish().unwrap_err().to_string().contains("could not be made"));
    }

    #[test]
    fn a_state_is_written_before_it_is_read() {
        let g = GraphBuilder::new();
        let s = g.state("s", DType::F32, [4, 2]);
        let x = g.input("x", DType::F32, [1, 2]);
        s.exp();
        s.append(x, 0);
        assert!(g.take_error().unwrap().to_string().contains("append first"));
        x.append(x, 0);
        assert!(g.take_error().unwrap().to_string().contains("must be a state"));
    }
}
