// Class names: the bundled lists, and finding a class by what a person typed.
#include <vitrine/labels.h>

#include <algorithm>
#include <charconv>

#include "text.h"

namespace vitrine {

std::string Labels::name(std::int64_t index) const {
    if (index >= 0 && index < static_cast<std::int64_t>(names.size()) &&
        !names[static_cast<std::size_t>(index)].empty())
        return names[static_cast<std::size_t>(index)];
    return fmt::format("class {}", index);
}

Result<std::int64_t> Labels::find(std::string_view text, std::int64_t classes) const {
    if (text.empty()) return fail(ErrorCode::BadInput, "no class was named; give an index or a name");
    std::int64_t index = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), index);
    if (end == text.data() + text.size() && (code == std::errc() || code == std::errc::result_out_of_range)) {
        if (code != std::errc() || index < 0 || index >= classes)
            return fail(ErrorCode::BadInput, "class {} is out of range: this model has {} classes, 0 to {}", text,
                        classes, classes - 1);
        return index;
    }
    const std::int64_t known = std::min<std::int64_t>(classes, static_cast<std::int64_t>(names.size()));
    if (known == 0)
        return fail(ErrorCode::BadInput, "'{}' is no index, and this model has no class names; give a number below {}",
                    text, classes);
    const std::string wanted = lower(text);
    std::vector<std::int64_t> exact, partial;
    for (std::int64_t i = 0; i < known; ++i) {
        const std::string have = lower(names[static_cast<std::size_t>(i)]);
        if (have == wanted) exact.push_back(i);
        if (have.find(wanted) != std::string::npos) partial.push_back(i);
    }
    const auto& found = exact.empty() ? partial : exact;
    if (found.size() == 1) return found.front();
    if (found.empty())
        return fail(ErrorCode::BadInput, "no class is called '{}'{}", text,
                    suggest(text, {names.begin(), names.begin() + known}));
    return fail(ErrorCode::BadInput, "'{}' names {} classes; give one of the indices: {}", text, found.size(),
                fmt::join(found, ", "));
}

const std::vector<std::string>& imagenet1k_names() {
    static const std::vector<std::string> names{
#include "../../resources/labels/imagenet1k.inc"
    };
    return names;
}

const std::vector<std::string>& cifar10_names() {
    static const std::vector<std::string> names{"airplane", "automobile", "bird",  "cat",  "deer",
                                                "dog",      "frog",       "horse", "ship", "truck"};
    return names;
}

}  // namespace vitrine
