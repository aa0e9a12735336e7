//! What naga reads back from a filled kernel.

use super::Kernel;
use crate::base::Result;
use naga::{AddressSpace, StorageAccess, TypeInner};

/// How a kernel touches a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Uniform,
    /// A texture.
    Texels,
    Read,
    ReadWrite,
}

/// A resource of group 0 that the kernel uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub name: String,
    pub index: u32,
    pub access: Access,
}

/// A member of the uniform parameter block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub offset: u32,
}

/// The interface of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reflection {
    /// Sorted by index. Only what the entry point uses.
    pub bindings: Vec<Binding>,
    pub fields: Vec<Field>,
    /// Bytes of the parameter block, 0 where the kernel has none.
    pub uniform_bytes: u32,
    pub workgroup: [u32; 3],
}

impl Reflection {
    pub fn offset(&self, field: &str) -> Option<u32> {
        self.fields.iter().find(|f| f.name == field).map(|f| f.offset)
    }
}

impl Kernel {
    /// Parses and validates the filled text; errors carry naga's message with the line.
    pub fn validate(&self) -> Result<(naga::Module, naga::valid::ModuleInfo)> {
        use naga::valid::{Capabilities, ValidationFlags, Validator};
        let source = self.source()?;
        let module = naga::front::wgsl::parse_str(&source)
            .map_err(|e| self.error(e.emit_to_string_with_path(&source, self.template.name)))?;
        let capabilities = Capabilities::default()
            | Capabilities::SUBGROUP
            | Capabilities::SHADER_FLOAT16
            | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let info = Validator::new(ValidationFlags::all(), capabilities)
            .validate(&module)
            .map_err(|e| self.error(e.emit_to_string_with_path(&source, self.template.name)))?;
        Ok((module, info))
    }

    /// Bindings, parameter offsets and workgroup size of the kernel's entry point `main`.
    pub fn reflect(&self) -> Result<Reflection> {
        let (module, info) = self.validate()?;
        let entry = module.entry_points.first().ok_or_else(|| self.error("has no entry point"))?;
        let uses = info.get_entry_point(0);
        let mut out =
            Reflection { bindings: vec![], fields: vec![], uniform_bytes: 0, workgroup: entry.workgroup_size };
        for (handle, global) in module.global_variables.iter() {
            let Some(binding) = &global.binding else { continue };
            if uses[handle].is_empty() {
                continue;
            }
            // The parameter block is a struct; an array in uniform memory is an operand like those in storage.
            let block = matches!(module.types[global.ty].inner, TypeInner::Struct { .. });
            let access = match global.space {
                AddressSpace::Uniform if block => Access::Uniform,
                AddressSpace::Handle => Access::Texels,
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
                _ => Access::Read,
            };
            if access == Access::Uniform {
                let TypeInner::Struct { members, span } = &module.types[global.ty].inner else {
                    return Err(self.error("the uniform block is not a struct"));
                };
                out.uniform_bytes = span.next_multiple_of(16);
                out.fields = members
                    .iter()
                    .map(|m| Field { name: m.name.clone().unwrap_or_default(), offset: m.offset })
                    .collect();
            }
            let name = global.name.clone().unwrap_or_default();
            out.bindings.push(Binding { name, index: binding.binding, access });
        }
        out.bindings.sort_by_key(|b| b.index);
        Ok(out)
    }
}
