// Several maps of one picture side by side: which methods, for which targets, how far each is, and how they measure.
//
// Lives on the interface thread, beside the session, which posts its jobs. While the comparison is closed it has one
// cell, the session's own explanation, so that measures have one place.
#pragma once

#include <QObject>
#include <QStringList>

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "jobs/session.h"

namespace vitrine::app {

/// How far a number or a map is.
enum class Stage : std::uint8_t {
    Waiting,  ///< its turn comes
    Running,
    Done,
    Stopped,  ///< by the person; what there is of it stays
    Failed,   ///< it has no meaning here, or went wrong; the reason is told
};

struct CellScore {
    Stage stage = Stage::Waiting;
    ScoreFacts facts;
    QString reason;
};

/// One map among several.
struct Cell {
    int id = 0;  ///< of its jobs; no two cells ever share one
    Wanted wanted;
    QString title;             ///< of the method
    QString target;            ///< the class, where two are compared; else empty
    bool is_second = false;    ///< of the second target
    bool is_original = false;  ///< of the model as it was opened, beside the steered one
    Stage stage = Stage::Waiting;
    JobProgress progress;
    std::optional<Explanation> found;  ///< the latest there is
    bool stale = false;                ///< `found` answers another question than `wanted`
    QString trouble;
    std::map<std::string, CellScore> scores;  ///< of `found`, by measure
    std::optional<Finding> randomisation;     ///< on request
    bool checking = false;
};

class Comparison : public QObject {
    Q_OBJECT

  public:
    explicit Comparison(Session& session);

    // ---- asking -------------------------------------------------------------------------------------------------
    void setOpen(bool open);  ///< opened without methods it starts with the chosen one
    void setMethods(const QStringList& methods);
    void toggle(const QString& method);
    /// A class whose maps stand beside those of the target; nothing for none.
    void setBeside(std::optional<std::int64_t> index);
    void stop(int cell);   ///< keeps what there is
    void again(int cell);  ///< makes the map anew
    void againAll();
    void remove(int cell);
    /// Compares the map with those of models whose weights were shuffled; the finding joins the cell's checks.
    void check(int cell);
    /// Which measures; they run, after the maps, while somebody looks.
    void setMeasures(const std::vector<std::string>& names);
    void setMeasuring(bool looking);

    // ---- reading ------------------------------------------------------------------------------------------------
    bool isOpen() const { return open_; }
    const QStringList& methods() const { return methods_; }
    std::optional<std::int64_t> beside() const { return beside_; }
    const std::vector<Cell>& cells() const { return cells_; }
    const std::vector<std::string>& measures() const { return measures_; }
    bool measuring() const { return measuring_; }

  Q_SIGNALS:
    void arranged();             ///< cells came or went
    void cellChanged(int cell);  ///< its map, state or progress
    void scoresChanged();        ///< a measure of any cell, or which measures
    void openChanged(bool open);

  private:
    struct Place {
        QString method;
        bool second = false, original = false;
    };
    std::vector<Place> places() const;
    void follow();    ///< brings the cells to what is asked and to what the session holds
    void mirror();    ///< the one cell of a closed comparison
    void postMaps();  ///< of cells that wait
    void postScores();
    void post(const Cell& cell, bool fresh);
    void drop(Cell& cell);  ///< its jobs
    void dropScores(Cell& cell);
    void dropped(bool stopped);
    void readProgress();
    Cell* find(int id);
    int indexOf(int id) const;
    void tell(int id);
    static std::string tagOf(const Cell& cell);

    Session& session_;
    bool open_ = false, measuring_ = false;
    QStringList methods_;
    std::optional<std::int64_t> beside_;
    std::vector<Cell> cells_;
    std::set<int> posted_;  ///< cells whose job is on its way
    std::vector<std::string> measures_;
    int next_id_ = 1;
};

}  // namespace vitrine::app
