//! A GPU's own compiler behind Vulkan: WGSL in, statistics and machine code out. RADV's null device runs nothing, so no GPU is needed.

use ash::vk;
use std::ffi::CStr;

/// A device that only compiles.
pub struct Compiler {
    _entry: ash::Entry,
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    pub name: String,
}

/// What became of a kernel.
#[derive(Default)]
pub struct Compiled {
    pub lanes: u32,
    pub registers: u64,
    pub spilled: u64,
    pub scratch: u64,
    pub waves: u64,
    pub assembly: String,
}

type Failure = String;

fn failed(what: &str) -> impl Fn(vk::Result) -> Failure + '_ {
    move |e| format!("{what}: {e}")
}

fn text(bytes: &[std::ffi::c_char]) -> String {
    // SAFETY: Vulkan ends its names by a zero within the array.
    unsafe { CStr::from_ptr(bytes.as_ptr()) }.to_string_lossy().into_owned()
}

impl Compiler {
    /// Opens the first device of the loader.
    pub fn open() -> Result<Compiler, Failure> {
        // SAFETY: plain Vulkan calls; every pointer that is passed outlives its call.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| format!("no Vulkan loader: {e}"))?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = entry
                .create_instance(&vk::InstanceCreateInfo::default().application_info(&app), None)
                .map_err(failed("no instance"))?;
            let all = instance.enumerate_physical_devices().map_err(failed("no devices"))?;
            let physical = *all.first().ok_or("no device")?;
            let name = text(&instance.get_physical_device_properties(physical).device_name);
            let offered = instance.enumerate_device_extension_properties(physical).map_err(failed("no extensions"))?;
            let cooperative = offered.iter().any(|e| e.extension_name_as_c_str() == Ok(c"VK_KHR_cooperative_matrix"));
            let mut extensions = vec![c"VK_KHR_pipeline_executable_properties".as_ptr()];
            extensions.extend(cooperative.then(|| c"VK_KHR_cooperative_matrix".as_ptr()));
            let mut info = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut v11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .shader_int8(true)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let mut v13 = vk::PhysicalDeviceVulkan13Features::default()
                .shader_integer_dot_product(true)
                .subgroup_size_control(true);
            let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let priority = [1.0];
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&priority)];
            let mut create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut info)
                .push_next(&mut v11)
                .push_next(&mut v12)
                .push_next(&mut v13);
            if cooperative {
                create = create.push_next(&mut matrices);
            }
            let device = instance.create_device(physical, &create, None).map_err(failed("no device"))?;
            let executables = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Compiler { _entry: entry, device, executables, name })
        }
    }

    pub fn compile(&self, wgsl: &str) -> Result<Compiled, Failure> {
        let (words, entry, bindings) = translate(wgsl)?;
        // SAFETY: as above.
        unsafe {
            let layout = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set = self.device.create_descriptor_set_layout(&layout, None).map_err(failed("set layout"))?;
            let sets = [set];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&layout, None).map_err(failed("layout"))?;
            let module = vk::ShaderModuleCreateInfo::default().code(&words);
            let module = self.device.create_shader_module(&module, None).map_err(failed("module"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let create = [vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(layout)];
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &create, None);
            let pipeline = made.map_err(|(_, e)| format!("pipeline: {e}"))?[0];
            self.read(pipeline)
        }
    }

    unsafe fn read(&self, pipeline: vk::Pipeline) -> Result<Compiled, Failure> {
        let mut out = Compiled::default();
        // SAFETY: as above; buffers are as long as the first call says.
        unsafe {
            let of = vk::PipelineInfoKHR::default().pipeline(pipeline);
            let all = self.executables.get_pipeline_executable_properties(&of).map_err(failed("executables"))?;
            for (i, executable) in all.iter().enumerate() {
                out.lanes = executable.subgroup_size;
                let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(i as u32);
                let numbers = self.executables.get_pipeline_executable_statistics(&info).map_err(failed("statistics"))?;
                for n in &numbers {
                    let value = n.value.u64;
                    match text(&n.name).as_str() {
                        "VGPRs" => out.registers = value,
                        "Spilled VGPRs" => out.spilled = value,
                        "Scratch size" => out.scratch = value,
                        "Subgroups per SIMD" => out.waves = value,
                        _ => {}
                    }
                }
                let ask = self.executables.fp().get_pipeline_executable_internal_representations_khr;
                let mut texts =
                    self.executables.get_pipeline_executable_internal_representations(&info).map_err(failed("texts"))?;
                let mut bytes: Vec<Vec<u8>> = texts.iter().map(|t| vec![0; t.data_size]).collect();
                texts.iter_mut().zip(&mut bytes).for_each(|(t, b)| t.p_data = b.as_mut_ptr().cast());
                let mut count = texts.len() as u32;
                let _ = ask(self.device.handle(), &info, &mut count, texts.as_mut_ptr());
                for (t, b) in texts.iter().zip(&bytes) {
                    if text(&t.name).contains("ssembly") {
                        out.assembly = String::from_utf8_lossy(b).into_owned();
                    }
                }
            }
        }
        Ok(out)
    }
}

type Translated = (Vec<u32>, std::ffi::CString, Vec<vk::DescriptorSetLayoutBinding<'static>>);

/// As wgpu hands kernels on that need no checks.
fn translate(wgsl: &str) -> Result<Translated, Failure> {
    use naga::back::spv;
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::Unchecked};
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(wgsl))?;
    let mut options = spv::Options { lang_version: (1, 6), force_loop_bounding: false, ..Default::default() };
    options.bounds_check_policies =
        BoundsCheckPolicies { index: Unchecked, buffer: Unchecked, image_load: Unchecked, binding_array: Unchecked };
    options.zero_initialize_workgroup_memory = spv::ZeroInitializeWorkgroupMemoryMode::None;
    let entry = module.entry_points.first().ok_or("no entry point")?.name.clone();
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.clone() };
    let words = spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    let bindings = module.global_variables.iter().filter_map(|(_, v)| {
        let kind = match v.space {
            naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
            naga::AddressSpace::Handle => vk::DescriptorType::SAMPLED_IMAGE,
            _ => vk::DescriptorType::STORAGE_BUFFER,
        };
        let binding = vk::DescriptorSetLayoutBinding::default().descriptor_count(1).descriptor_type(kind);
        v.binding.map(|b| binding.binding(b.binding).stage_flags(vk::ShaderStageFlags::COMPUTE))
    });
    Ok((words, std::ffi::CString::new(entry).map_err(|e| e.to_string())?, bindings.collect()))
}
