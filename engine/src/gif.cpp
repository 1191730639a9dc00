// Decodes the first frame of a GIF: colour tables, LZW with bounded codes, interlacing.
#include "gif.h"

#include <array>
#include <vector>

namespace vitrine {

namespace {

class Reader {
  public:
    explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
    bool ended() const { return at_ >= bytes_.size(); }
    int byte() { return at_ < bytes_.size() ? std::to_integer<int>(bytes_[at_++]) : (failed_ = true, 0); }
    int word() {
        const int low = byte();
        return low + 256 * byte();
    }
    void skip(std::size_t count) {
        if (count > bytes_.size() - at_)
            failed_ = true, at_ = bytes_.size();
        else
            at_ += count;
    }
    bool failed() const { return failed_; }

  private:
    std::span<const std::byte> bytes_;
    std::size_t at_ = 0;
    bool failed_ = false;
};

using Table = std::vector<std::array<std::uint8_t, 3>>;

Table read_table(Reader& in, int flags) {
    Table table(std::size_t{2} << (flags & 7));
    for (auto& colour : table)
        for (auto& level : colour) level = static_cast<std::uint8_t>(in.byte());
    return table;
}

void skip_blocks(Reader& in) {
    while (!in.failed()) {
        const int length = in.byte();
        if (length == 0) return;
        in.skip(static_cast<std::size_t>(length));
    }
}

/// LZW codes to colour indices; stops at `count` of them. Fewer come back from damaged data.
std::vector<std::uint8_t> unpack(Reader& in, std::size_t count) {
    std::vector<std::uint8_t> out;
    const int minimum = in.byte();
    if (minimum < 1 || minimum > 8) return out;
    out.reserve(std::min<std::size_t>(count, 1u << 24));
    const int clear = 1 << minimum, stop = clear + 1;
    std::array<std::uint16_t, 4096> before{};
    std::array<std::uint8_t, 4096> last{};
    std::array<std::uint8_t, 4097> stack{};
    for (int i = 0; i < clear; ++i) last[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
    int size = minimum + 1, next = clear + 2, previous = -1, first = 0;
    int left_in_block = 0, bits = 0;
    std::uint32_t buffer = 0;
    while (out.size() < count) {
        while (bits < size) {
            if (left_in_block == 0) {
                left_in_block = in.byte();
                if (left_in_block == 0 || in.failed()) return out;
            }
            buffer |= static_cast<std::uint32_t>(in.byte()) << bits;
            if (in.failed()) return out;
            bits += 8;
            --left_in_block;
        }
        const int code = static_cast<int>(buffer & ((1u << size) - 1));
        buffer >>= size;
        bits -= size;
        if (code == clear) {
            size = minimum + 1;
            next = clear + 2;
            previous = -1;
            continue;
        }
        if (code == stop || code > next || (code == next && previous < 0)) return out;
        // A string is walked backwards; a code not yet defined is the previous string and its own first letter.
        std::size_t depth = 0;
        int walk = code;
        if (code == next) stack[depth++] = static_cast<std::uint8_t>(first), walk = previous;
        while (walk >= clear + 2 && depth < stack.size() - 1) {
            stack[depth++] = last[static_cast<std::size_t>(walk)];
            walk = before[static_cast<std::size_t>(walk)];
        }
        if (walk >= clear) return out;
        first = walk;
        stack[depth++] = static_cast<std::uint8_t>(walk);
        while (depth > 0 && out.size() < count) out.push_back(stack[--depth]);
        if (previous >= 0 && next < 4096) {
            before[static_cast<std::size_t>(next)] = static_cast<std::uint16_t>(previous);
            last[static_cast<std::size_t>(next)] = static_cast<std::uint8_t>(first);
            ++next;
            if (next == (1 << size) && size < 12) ++size;
        }
        previous = code;
    }
    return out;
}

}  // namespace

Result<GifFrame> read_gif(std::span<const std::byte> bytes) {
    Reader in(bytes);
    in.skip(6);
    const int width = in.word(), height = in.word(), flags = in.byte();
    in.skip(2);
    if (in.failed() || width < 1 || height < 1)
        return fail(ErrorCode::BadInput, "the GIF data are damaged or truncated");
    Table shared;
    if ((flags & 0x80) != 0) shared = read_table(in, flags);
    int hidden = -1;  // the index that means transparent
    GifFrame frame;
    while (!in.failed()) {
        const int kind = in.byte();
        if (kind == 0x21) {
            const int label = in.byte();
            if (label == 0xF9) {
                in.skip(1);
                const int control = in.byte();
                in.skip(2);
                const int index = in.byte();
                if ((control & 1) != 0) hidden = index;
                in.skip(1);
            } else {
                skip_blocks(in);
            }
            continue;
        }
        if (kind != 0x2C) break;
        const int left = in.word(), top = in.word(), columns = in.word(), rows = in.word(), how = in.byte();
        const Table own = (how & 0x80) != 0 ? read_table(in, how) : shared;
        if (in.failed() || columns < 1 || rows < 1 || own.empty()) break;
        const std::size_t count = static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows);
        const auto indices = unpack(in, count);
        if (indices.size() != count) break;
        frame.image = Image(width, height);
        std::fill(frame.image.pixels.begin(), frame.image.pixels.end(), std::uint8_t{255});
        frame.transparent = left > 0 || top > 0 || left + columns < width || top + rows < height;
        std::size_t row = 0;
        // Interlaced rows come in four passes.
        static constexpr std::array<std::array<int, 2>, 4> passes{{{0, 8}, {4, 8}, {2, 4}, {1, 2}}};
        const auto draw = [&](int y) {
            const std::uint8_t* line = indices.data() + row++ * static_cast<std::size_t>(columns);
            for (int x = 0; x < columns; ++x) {
                const int index = line[x];
                if (index == hidden || static_cast<std::size_t>(index) >= own.size()) {
                    frame.transparent = true;
                    continue;
                }
                if (left + x >= width || top + y >= height) continue;
                const auto& colour = own[static_cast<std::size_t>(index)];
                std::copy(colour.begin(), colour.end(), frame.image.at(left + x, top + y));
            }
        };
        if ((how & 0x40) != 0) {
            for (const auto& [start, step] : passes)
                for (int y = start; y < rows; y += step) draw(y);
        } else {
            for (int y = 0; y < rows; ++y) draw(y);
        }
        return frame;
    }
    return fail(ErrorCode::BadInput, "the GIF data are damaged or truncated");
}

}  // namespace vitrine
