// The readers of checkpoint files. None of them runs anything a file says.
#pragma once

#include <filesystem>
#include <span>

#include <vitrine/base/result.h>
#include <vitrine/base/tensor_file.h>

namespace vitrine {

/// Reads one `.safetensors` file, memory-mapped: the tensors borrow the mapping (those that lie at addresses their elements
/// may not have are copied, so `data` can always be read as numbers of its dtype).
///
/// @error Io        the file cannot be opened or read
/// @error BadInput  header length beyond the file (or above 100 MB), JSON that is no object of tensors, unknown dtype,
///                  offsets that overlap, leave holes, run backwards or end beyond the file, sizes that disagree with the shape
/// @source          github.com/huggingface/safetensors, README "Format"
Result<TensorFile> read_safetensors(const std::filesystem::path& file);

/// The same from bytes in memory (for fuzzing and for tests); `keep_alive` is held by every entry.
Result<TensorFile> parse_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive);

/// Reads a sharded checkpoint through its `*.safetensors.index.json`. Shard names may not leave the folder.
Result<TensorFile> read_sharded_safetensors(const std::filesystem::path& index);

/// Reads a file of `torch.save`, zip or legacy, through a restricted unpickler: tensors and plain containers only.
/// Any other global is refused and named. Storages borrow the mapping; zip entries must be stored, not compressed.
///
/// Dictionaries become names joined with '.', lists count from 0 (`optimizer.state.0.exp_avg`), a file that is one tensor
/// calls it `tensor`. Scalars in dictionaries and texts in lists go to `metadata`; numbers in lists, None, bytes and texts above 64 KB do not.
/// Beside tensors these are read as plain values: OrderedDict, defaultdict, Counter, sets, torch.Size, dtypes, devices,
/// numpy's scalars (as numbers), and argparse.Namespace (as a dictionary: `args.lr` in `metadata`), which training scripts
/// keep in their checkpoints, as ViT-Prisma does its VisionModelSAERunnerConfig. numpy arrays are refused. An OrderedDict's attributes (a state_dict's _metadata) are ignored.
/// Checksums are not verified: files written without them are valid.
///
/// @error Unsupported  a TorchScript archive (it is a program; the engine asks for consent), a refused global, a quantised tensor
/// @error BadInput     everything malformed; containers that hold themselves, nest deeper than 64 or unfold into more than
///                     500,000 values; tensors that unfold few bytes into more than 1 GB beyond 4 times the file
/// @source             PyTorch, torch/serialization.py; the opcodes: CPython, Lib/pickletools.py
Result<TensorFile> read_torch_save(const std::filesystem::path& file);
Result<TensorFile> parse_torch_save(std::span<const std::byte> bytes, std::shared_ptr<const void> keep_alive);

/// What a file is by its first bytes and, for zips, its member names; never by its extension.
enum class FileKind { Safetensors, TorchSaveZip, TorchSaveLegacy, TorchScript, Onnx, Image, Json, Unknown };
Result<FileKind> sniff(const std::filesystem::path& file);

/// Checks a TorchScript archive as a container (members, sizes, names, no compression bombs) before libtorch sees it.
Status check_torchscript_container(const std::filesystem::path& file);

/// Tensors to write, in order. Entries must be contiguous.
struct NamedTensor {
    std::string name;
    TensorEntry tensor;
};

/// Writes a safetensors file beside `file` and renames it into place.
Status write_safetensors(const std::filesystem::path& file, std::span<const NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata);

/// Writes NumPy's .npy, format 1.0, little-endian float32, C order; beside and renamed.
Status write_npy(const std::filesystem::path& file, const float* data, std::span<const std::int64_t> shape);

}  // namespace vitrine
