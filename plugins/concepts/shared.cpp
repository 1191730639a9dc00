// Points, activations and pictures for explainers that find their concepts themselves; what measures' settings name.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <sstream>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <vitrine/base/file.h>
#include <vitrine/base/image_file.h>
#include <vitrine/base/picture_files.h>

#include "concepts.h"

namespace vitrine::plugin::concepts {

namespace fs = std::filesystem;

std::optional<std::string> needs_points(const Model& model) {
    if (model.points().empty()) return model.info().name + " has no named points whose activations could be read";
    if (model.info().layers == 0 && model.info().cam_point.empty())
        return "which activation of " + model.info().name + " forms a grid could not be told";
    return std::nullopt;
}

Result<std::string> point_of(const Model& model, const std::string& named) {
    const auto points = model.points();
    const auto is_there = [&](const std::string& name) {
        return std::any_of(points.begin(), points.end(), [&](const NamedPoint& p) { return p.name == name; });
    };
    if (!named.empty()) {
        if (is_there(named)) return named;
        return fail(ErrorCode::BadInput, "{} has no point named {} (vitrine info MODEL --points lists them)",
                    model.info().name, named);
    }
    if (const auto block = fmt::format("blocks.{}", model.info().layers * 3 / 4);
        model.info().layers > 0 && is_there(block))
        return block;
    if (!model.info().cam_point.empty()) return model.info().cam_point;
    return fail(ErrorCode::Unsupported, "which activation of {} forms a grid could not be told: name a point",
                model.info().name);
}

Result<Seen> see(Model& model, const at::Tensor& pixels, const std::string& point, const std::stop_token& stop) {
    const at::NoGradGuard no_grad;
    CaptureOptions options;
    options.mixings = false;
    options.points = {point};
    options.stop = stop;
    const auto run = VITRINE_TRY(run_captured(model, pixels, options));
    const auto found = run->points.find(point);
    if (found == run->points.end())
        return fail(ErrorCode::Unsupported, "{} did not pass its point {} on this picture", model.info().name, point);
    Seen out;
    out.whole = found->second.detach();
    out.answer = run->output.detach();
    const at::Tensor grid = VITRINE_TRY(as_grid(out.whole, model.layout(pixels.size(2), pixels.size(3))));
    out.rows = grid.size(2);
    out.cols = grid.size(3);
    out.cells = grid.flatten(2).transpose(1, 2).to(at::kCPU, at::kDouble);
    return out;
}

at::Tensor whole_of(const at::Tensor& cells, const Seen& of) {
    if (of.whole.dim() == 4) return cells.transpose(1, 2).reshape({cells.size(0), cells.size(2), of.rows, of.cols});
    const std::int64_t before = of.whole.size(1) - of.rows * of.cols;
    const at::Tensor prefix = of.whole.narrow(0, 0, 1).narrow(1, 0, before).to(cells.options());
    return at::cat({prefix.expand({cells.size(0), -1, -1}), cells}, 1);
}

Result<std::vector<std::string>> pictures_of(const std::string& folder, std::vector<std::string>& notes) {
    FilesBelow found = VITRINE_TRY(files_below(folder, is_picture_name));
    std::vector<std::string> out(found.files.begin(), found.files.end());
    for (std::string& note : found.notes) notes.push_back(std::move(note));
    if (out.empty()) return fail(ErrorCode::BadInput, "{} has no pictures in it", folder);
    return out;
}

std::vector<std::string> items_of(const std::string& text) {
    std::vector<std::string> out;
    std::istringstream items(text);
    for (std::string item; std::getline(items, item, ',');)
        if (!item.empty()) out.push_back(item);
    return out;
}

Result<std::vector<std::pair<std::string, Autoencoder>>> autoencoders_of(const std::string& files,
                                                                         const std::string& given,
                                                                         const std::string& measure, Model& model) {
    std::map<std::string, std::string> said;
    for (const std::string& item : items_of(given)) {
        const std::size_t equals = item.find('=');
        if (equals == std::string::npos)
            return fail(ErrorCode::BadInput, "'{}' in {}.given is not NAME=VALUE", item, measure);
        said[item.substr(0, equals)] = item.substr(equals + 1);
    }
    std::vector<std::string> names = items_of(files);
    if (names.empty()) {
        const fs::path built_in = built_in_concepts();
        if (built_in.empty())
            return fail(ErrorCode::BadInput,
                        "name autoencoders with --set {}.autoencoders=FILE,FILE (vitrine train-concepts makes them)",
                        measure);
        names.push_back(built_in.string());
    }
    std::vector<std::pair<std::string, Autoencoder>> out;
    for (const std::string& name : names) {
        Autoencoder one = VITRINE_TRY(Autoencoder::load(name, said));
        one.to(model.device());
        out.emplace_back(name, std::move(one));
    }
    return out;
}

Result<std::vector<double>> numbers_of_pictures(const fs::path& file, const PictureSet& pictures) {
    std::map<std::string, double> by_name;
    std::istringstream lines(VITRINE_TRY(read_text(file)));
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        const std::size_t comma = line.find_last_of(",\t");
        if (comma == std::string::npos) continue;
        double number = 0;
        const auto [end, code] = std::from_chars(line.data() + comma + 1, line.data() + line.size(), number);
        if (code != std::errc() || end != line.data() + line.size()) continue;
        by_name[line.substr(0, comma)] = number;
    }
    std::vector<double> out(static_cast<std::size_t>(pictures.count()), std::numeric_limits<double>::quiet_NaN());
    std::size_t known = 0;
    for (std::int64_t i = 0; i < pictures.count(); ++i) {
        const PictureSet::Picture& picture = pictures.picture(i);
        for (const std::string& name : {picture.file.string(), picture.name, picture.file.filename().string()})
            if (const auto found = by_name.find(name); found != by_name.end()) {
                out[static_cast<std::size_t>(i)] = found->second;
                ++known;
                break;
            }
    }
    if (known == 0)
        return fail(ErrorCode::BadInput, "{} has a number for none of the {} pictures; expected lines of FILE,NUMBER",
                    file.string(), pictures.count());
    return out;
}

}  // namespace vitrine::plugin::concepts
