// Reads and writes lists of regions.
#include <vitrine/base/region_list.h>

#include <cstdio>
#include <sstream>

#include <vitrine/base/file.h>

namespace vitrine {

namespace fs = std::filesystem;

Result<RegionList> read_region_list(const fs::path& file) {
    std::istringstream in(VITRINE_TRY(read_text(file)));
    RegionList out;
    std::int64_t number = 0;
    for (std::string line; std::getline(in, line);) {
        ++number;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (long long rows = 0, cols = 0; std::sscanf(line.c_str(), "# cells %9lld x %9lld", &rows, &cols) == 2) {
            if (rows < 1 || cols < 1)
                return fail(ErrorCode::BadInput, "line {} of {} names a grid of {} x {} cells", number, file.string(),
                            rows, cols);
            out.rows = rows;
            out.cols = cols;
        }
        if (line.empty() || line.front() == '#') continue;
        // A name may have commas; what follows it has nothing but numbers and their signs.
        const auto name_end = line.find_last_not_of("0123456789,;-");
        const auto comma = line.find(',', name_end == std::string::npos ? 0 : name_end);
        if (comma == std::string::npos || comma == 0)
            return fail(ErrorCode::BadInput, "line {} of {} is '{}', expected picture,ROW,COL-ROW,COL", number,
                        file.string(), line.substr(0, 80));
        out.regions.push_back({file.parent_path() / line.substr(0, comma), line.substr(comma + 1), number});
    }
    return out;
}

Status write_region_list(const fs::path& file, const RegionList& list) {
    const fs::path folder = fs::absolute(file).lexically_normal().parent_path();
    std::string out;
    if (list.rows > 0 && list.cols > 0) out = fmt::format("# cells {} x {}\n", list.rows, list.cols);
    for (const ListedRegion& region : list.regions) {
        const fs::path whole = fs::absolute(region.picture).lexically_normal(), near = whole.lexically_relative(folder);
        std::string name = near.empty() || *near.begin() == ".." ? whole.string() : near.string();
        if (name.find_first_of("\r\n") != std::string::npos)
            return fail(ErrorCode::BadInput,
                        "the name of {} has a line break, which a list of regions cannot hold: rename the picture",
                        whole.filename().string());
        if (name.front() == '#') name = "./" + name;
        out += name + ',' + region.cells + '\n';
    }
    return write_text(file, out);
}

}  // namespace vitrine
