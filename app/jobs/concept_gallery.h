// The gallery of concepts as a person wanders in it: which autoencoder, which of its concepts are shown, which one is
// looked at, what it is called, and the index that all of this is read from.
//
// Lives on the interface thread, beside the session. The index is mapped and read here; pictures are decoded on two
// threads of their own and kept within a bound, names and the folder are looked at on a third, an index is built on a
// fourth with its own copy of the model.
#pragma once

#include <QImage>
#include <QObject>
#include <QTimer>

#include <deque>
#include <optional>
#include <set>
#include <stop_token>
#include <vector>

#include "jobs/concept_book.h"
#include "jobs/session.h"

namespace vitrine::app {

/// A picture around the patch in which a concept is strongest, or the whole of it.
struct ConceptCrop {
    QImage image;         ///< null where it cannot be shown
    QRectF patch;         ///< the strongest patch, in shares of the image; empty without one
    QString trouble;      ///< why it cannot be shown
    mutable QImage face;  ///< as it was painted last: a page of cells is a hundred of them, thirty times a second
};

class ConceptGallery : public QObject {
    Q_OBJECT

  public:
    enum class State : std::uint8_t {
        Nothing,  ///< no autoencoder was chosen
        Opening,
        NoIndex,  ///< an autoencoder, and no index yet, or one that is of no use: `trouble`
        Failed,   ///< `trouble`
        Ready,
    };
    explicit ConceptGallery(Session& session);
    ~ConceptGallery() override;

    // ---- opening ------------------------------------------------------------------------------------------------
    void setOpen(bool open);  ///< whether it is seen
    bool isOpen() const { return open_; }
    void choose(const QString& autoencoder, std::map<std::string, std::string> given = {});
    /// What its file does not say, by AutoencoderConfig's names; empty takes it back.
    void give(const std::string& name, const std::string& value);
    const std::map<std::string, std::string>& given() const { return given_; }
    /// The same of any autoencoder that was opened with this model since the program began.
    std::map<std::string, std::string> givenOf(const QString& autoencoder) const;
    bool asksForMore() const { return asks_; }  ///< it failed for what could be given
    void again();                               ///< reads the files anew
    void show(ConceptBook book);                ///< one that was opened elsewhere
    State state() const { return state_; }
    const QString& autoencoder() const { return autoencoder_; }
    const QString& trouble() const { return trouble_; }
    const QString& namesTrouble() const { return names_trouble_; }
    bool namesOfAnother() const { return book_.called_another; }  ///< the trouble is that, and they can be taken over
    void adoptNames();
    const ConceptIndex* index() const { return book_.index.get(); }
    const CalledConcepts& called() const { return book_.called; }
    const QString& folderChange() const { return folder_change_; }  ///< one sentence; empty while all is as it was
    bool folderGone() const { return folder_gone_; }

    // ---- the index ----------------------------------------------------------------------------------------------
    void setFolder(const QString& folder);  ///< where an index is shown: its pictures are there now
    const QString& folder() const { return folder_; }
    QString whyNoBuild() const;  ///< empty when an index can be built
    void build();                ///< builds, goes on, or brings up to date
    void stopBuilding();
    bool building() const { return building_; }
    const QString& buildWords() const { return build_words_; }  ///< what is done, or how it ended
    double buildShare() const { return build_share_; }          ///< negative: not known
    const QString& buildTrouble() const { return build_trouble_; }

    // ---- which are shown ----------------------------------------------------------------------------------------
    const ConceptQuery& query() const { return query_; }
    void setQuery(ConceptQuery query);  ///< `search` as it was typed
    const std::vector<std::uint32_t>& shown() const { return shown_; }
    bool isShown(std::int64_t latent) const;
    QStringList tags() const;
    void select(std::int64_t latent);  ///< -1: none
    std::int64_t selected() const { return selected_; }

    // ---- a concept ----------------------------------------------------------------------------------------------
    QString nameOf(std::int64_t latent) const;   ///< empty where it has none
    QString titleOf(std::int64_t latent) const;  ///< its name, else "Concept 12"
    QStringList tagsOf(std::int64_t latent) const;
    /// @param again  a step is taken back or taken again
    void call(std::int64_t latent, const QString& name, const QStringList& tags, bool again = false);
    float figure(const char* column, std::int64_t latent) const;
    /// Its top pictures by patches, else by the class token.
    std::vector<ConceptTop> tops(std::int64_t latent) const;

    // ---- pictures -----------------------------------------------------------------------------------------------
    /// Null while it is being decoded: picturesChanged follows.
    const ConceptCrop* crop(const ConceptTop& top, bool whole = false);
    /// Where the selected concept is in a picture; null while it is not known.
    const Plane* heat(std::uint32_t picture);
    QString pictureName(std::uint32_t picture) const;
    QString pictureFile(std::uint32_t picture) const;
    std::int64_t cropBytes() const { return crops_.weight(); }
    static constexpr std::int64_t kMostCropBytes = 64'000'000;
    static constexpr int kCropSide = 144;  ///< pixels

  Q_SIGNALS:
    void openChanged(bool open);
    void changed();      ///< all of it
    void listChanged();  ///< which are shown, or what they are called
    void selectedChanged();
    void callAsked(qint64 latent, const QString& name, const QStringList& tags);  ///< somebody wants others
    void callChanged();                                                           ///< one was given a name or tags
    void picturesChanged();
    void buildMoved();
    void built();  ///< an index was written: what is read from it is other
    void gave(const std::string& name, const std::string& value);

  private:
    struct Hands {};  ///< what threads for pictures and files have of their own: nothing
    using CropKey = std::uint64_t;
    static CropKey keyOf(const ConceptTop& top, bool whole);
    void followModel();
    struct Opened {
        Result<ConceptBook> book;
        bool asks = false;  ///< it is not there for what could be given
    };
    void took(Opened opened);
    void took(Result<CalledConcepts> called);
    void fold();
    void list();
    void lookAtFolder();
    void dropPictures();
    void pump();
    void heatNow();

    Session& session_;
    bool open_ = false;
    State state_ = State::Nothing;
    QString autoencoder_, trouble_, names_trouble_, folder_, folder_change_;
    bool folder_gone_ = false, came_with_model_ = false, asks_ = false;
    std::map<std::string, std::string> given_;
    /// Of what was opened before, too.
    std::map<QString, std::map<std::string, std::string>> given_of_;
    std::string model_;  ///< whose book it is
    ConceptBook book_;
    std::uint64_t book_id_ = 0;
    ConceptQuery query_;
    std::vector<std::uint32_t> shown_;
    std::vector<bool> is_shown_;
    std::int64_t selected_ = -1;
    bool building_ = false;
    QString build_words_, build_trouble_;
    double build_share_ = -1;
    std::stop_source stop_;
    BoundedCache<CropKey, ConceptCrop> crops_{kMostCropBytes};
    struct Wish {
        CropKey key;
        ConceptTop top;
        bool whole;
    };
    std::deque<Wish> wishes_;  ///< the last that was asked for goes first
    std::set<CropKey> wished_, under_way_;
    std::array<bool, 2> busy_{};
    std::map<std::uint32_t, Plane> heats_;  ///< of the selected concept, by picture
    std::vector<std::uint32_t> heat_wishes_;
    bool heating_ = false;
    QTimer told_;  ///< many pictures come at once: told of thirty times a second
    // Last: they end before what their answers touch.
    JobQueue<Hands> files_, builds_;
    std::array<std::unique_ptr<JobQueue<Hands>>, 2> decoders_;
};

}  // namespace vitrine::app
