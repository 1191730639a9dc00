// What was measured so far, in a file that a later run takes up again.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <vitrine/base/result.h>

namespace vitrine::cli {

/// What one measure said of one method's map of one picture.
struct Finding {
    std::string picture, method, measure;  ///< as the command line names them
    std::string content;                   ///< of the picture's file, its boxes and its label
    std::optional<double> value;           ///< nothing where the picture does not count
    std::string left_out;                  ///< why it does not count
    std::optional<Error> failed;           ///< why there is no answer at all; such a finding is not kept
    std::string unit;
    std::vector<std::string> notes;
    double method_ms = 0, measure_ms = 0;
    std::int64_t method_bytes =
        0;  ///< the most that the method took on the device, beyond what was there; 0 on the CPU
};

/// What a measure of a folder knows of a picture that is through, in bytes of its own.
struct Piece {
    std::string picture, content, measure;  ///< as of a Finding
    std::string part;                       ///< of what is kept of a picture
    std::size_t from = 0, size = 0;         ///< its line in the file
};

nlohmann::json to_json(const Finding& finding);
/// @error BadInput  not what to_json() gives
Result<Finding> finding_of(const nlohmann::json& line);

/// A journal of findings and pieces: JSON lines that are only ever added to, flushed to the disk with every call of
/// append().
///
/// Its first line says what all its numbers hang on (model, seed, precision, ...), further ones the settings of a
/// method or measure when it comes up for the first time; the rest are findings and pieces. A last line that was cut
/// off is dropped.
class State {
  public:
    /// Opens a file, or begins one, and holds it against other runs.
    ///
    /// @param made_with  what the numbers hang on, by name
    /// @param settings   of each method and measure that will be asked: {"method rollout": {...}}
    /// @error BadInput  the file is none of ours, broken in its middle, or made with something else (named)
    /// @error Io        it cannot be read or written, or another run holds it
    static Result<State> open(const std::filesystem::path& file, const nlohmann::json& made_with,
                              const nlohmann::json& settings);
    struct Kept {
        std::vector<Finding> findings;
        nlohmann::json made_with;
    };
    /// The same without writing or holding. @error NotFound  there is no such file
    static Result<Kept> read(const std::filesystem::path& file, const nlohmann::json& made_with,
                             const nlohmann::json& settings);

    State(State&& other) noexcept;
    State& operator=(State&&) = delete;
    ~State();

    /// What the file held when it was opened. Where two findings are of one thing the later holds.
    std::vector<Finding>& found() { return found_; }
    /// Adds findings, failed ones excepted, and returns when they are on the disk.
    Status append(std::span<const Finding> findings);
    /// More that the numbers hang on, known later than when it was opened.
    /// @error BadInput  what it holds was made with something else (named)
    Status made_also_with(const nlohmann::json& more);
    /// Pieces that were there when it was opened. Where two are of one thing the later holds.
    const std::vector<Piece>& pieces() const { return pieces_; }
    Result<std::string> bytes_of(const Piece& piece) const;
    Status append(const Piece& piece, std::string_view bytes);
    /// Adds what the parts hold that processes left behind (part_of()), and removes them.
    Status take_parts();
    /// Where a further process writes.
    static std::filesystem::path part_of(const std::filesystem::path& file, int process);

  private:
    State() = default;
    Status write(const std::string& text);

    std::filesystem::path file_;
    int fd_ = -1;
    nlohmann::json made_with_, settings_, also_with_;
    std::vector<Finding> found_;
    std::vector<Piece> pieces_;
};

}  // namespace vitrine::cli
