//! What a device can do: all that a plan may know of it.

/// What kind of processor stands behind an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterKind {
    Discrete,
    Integrated,
    /// A GPU seen through a virtual machine, or of unknown kind.
    Other,
    /// A software rasteriser: shaders run on the CPU.
    Software,
}

/// Limits and features of a device. A plan is made from this alone, so one for any device can be made anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    pub kind: AdapterKind,
    /// Storage buffers that one dispatch may bind.
    pub storage_buffers: u32,
    /// Bytes of one storage binding.
    pub binding_bytes: u64,
    /// Bytes of one buffer.
    pub buffer_bytes: u64,
    /// Invocations of one workgroup, in all.
    pub invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Workgroups along one grid axis.
    pub grid: u32,
    /// Alignment of a storage binding's offset.
    pub storage_align: u32,
    /// Alignment of a uniform binding's offset.
    pub uniform_align: u32,
    /// Texels along one axis of a texture.
    pub texture: u32,
    pub f16: bool,
    /// The widest guaranteed subgroup, 0 where there are none.
    pub subgroup: u32,
    pub timestamps: bool,
}

/// Texels of sixteen bytes in a row of a texture that holds plain memory: as many rows as every device has make 128 MiB.
pub const TEXELS: u32 = 1024;

impl Caps {
    /// Bytes of the largest texture with rows of [`TEXELS`].
    pub fn texture_bytes(&self) -> u64 {
        if self.texture < TEXELS { 0 } else { self.texture as u64 * TEXELS as u64 * 16 }
    }
    /// What every browser and phone with WebGPU has (the specification's default limits).
    pub const FLOOR: Caps = Caps {
        kind: AdapterKind::Other,
        storage_buffers: 8,
        binding_bytes: 128 << 20,
        buffer_bytes: 256 << 20,
        invocations: 256,
        workgroup_bytes: 16 << 10,
        grid: 65535,
        storage_align: 256,
        uniform_align: 256,
        texture: 8192,
        f16: false,
        subgroup: 0,
        timestamps: false,
    };
}
