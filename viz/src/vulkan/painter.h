// Paints a scene into a storage image by compute dispatches; what Compositor and Canvas share.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include <vitrine/viz/scene.h>

#include "vulkan/device.h"

namespace vitrine::viz {

inline constexpr std::int64_t kMaxSide = 16384;  ///< of what is drawn, pixels

/// Lives on the interface thread, as its device does. The order of use is: wait until the last recorded commands are
/// done, `prepare`, `record`, submit, wait, read.
///
/// The ground (room, picture, hatching) changes only when the view does; it is kept, so that a hovered patch costs one
/// copy and the dispatches over the map's own area.
class Painter {
  public:
    /// @param swap_red_blue  the output's bytes are B, G, R, A, so that they can be copied to a window that wants them
    /// so
    static Result<std::unique_ptr<Painter>> create(Device::Parts& device, bool swap_red_blue);

    /// Uploads what changed and plans the dispatches.
    /// @error BadInput  sizes below 1 or above 16,384; a map that is not {1, rows, cols} in host memory; a layer
    /// without area
    Status prepare(const Scene& scene, std::int64_t width, std::int64_t height);
    void record(VkCommandBuffer commands);
    VkImage output() const { return output_.image; }  ///< in layout GENERAL after `record`
    bool has_output() const { return output_.image && !targets_fresh_; }
    std::uint32_t width() const { return output_.width; }
    std::uint32_t height() const { return output_.height; }

    /// Copies the output to the host as part of the commands; `read` turns it into a picture once they are done.
    Status prepare_read_back();
    void record_read_back(VkCommandBuffer commands);
    Image read() const;

  private:
    enum class Stage { Room, Picture, Layer, Grid, Outline };
    // What a pipeline is compiled for: the stage, taps along an axis, two switches.
    using Variant = std::tuple<Stage, int, bool, bool>;

    struct Dispatch {
        VkPipeline pipeline{};
        std::array<std::byte, 128> block{};
        std::uint32_t block_bytes = 0;
        std::uint32_t groups_x = 0, groups_y = 0;
    };

    // Everything the ground depends on.
    struct GroundKey {
        std::int64_t width = 0, height = 0;
        std::uint64_t picture = 0;
        Point origin;
        double zoom = 0;
        bool hatched = false;
        Box seen;
        Rgb room, line, hatch;
        float display_scale = 0;
        bool operator==(const GroundKey& other) const;
    };

    struct PixelRect;
    struct Placement;

    explicit Painter(Device::Parts& device) : device_(device) {}
    Status create_layouts();
    Result<VkPipeline> pipeline(Variant variant);
    Status ensure_targets(std::uint32_t width, std::uint32_t height);
    Status ensure_picture(const Scene& scene);
    Status pack_maps(const Scene& scene);
    Status plan_ground(const Scene& scene, const Placement& placement);
    Status plan_overlays(const Scene& scene, const Placement& placement);
    template <class Block>
    Status add(std::vector<Dispatch>& list, Variant variant, const PixelRect& rect, Block block);
    void write_descriptors();
    void record_list(VkCommandBuffer commands, VkDescriptorSet set, const std::vector<Dispatch>& list);

    Device::Parts& device_;
    bool swap_red_blue_ = false;
    OwnedSampler sampler_;
    OwnedSetLayout set_layout_;
    OwnedPipelineLayout pipeline_layout_;
    OwnedPool pool_;
    VkDescriptorSet ground_set_{}, output_set_{};
    std::map<Variant, OwnedPipeline> pipelines_;

    Texture ground_, output_;
    bool targets_fresh_ = false;  // just made: their layout is still undefined
    Texture picture_;
    Buffer staging_;  // holds the picture until it was copied
    std::vector<VkBufferImageCopy> picture_copies_;
    bool picture_known_ = false;  // the texture holds the picture of this id
    std::uint64_t picture_id_ = 0, picture_serial_ = 0;
    std::int64_t picture_width_ = 0, picture_height_ = 0;  // of the photograph, which may be larger than the texture
    Buffer values_, texels_, read_back_;
    std::vector<std::uint32_t> first_values_;  // where each layer's map begins
    GroundKey ground_key_;
    bool descriptors_stale_ = true;
    bool ground_stale_ = true;
    std::vector<Dispatch> ground_list_, overlay_list_;
};

}  // namespace vitrine::viz
