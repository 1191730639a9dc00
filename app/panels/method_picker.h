// The list of methods: searchable, grouped by family, with what each computes, costs and where it is known to fail.
#pragma once

#include <QFrame>
#include <QStandardItemModel>

#include "jobs/comparison.h"

class QLabel;
class QLineEdit;
class QListView;
class QModelIndex;
class QPushButton;

namespace vitrine::app {

/// "about 0.4 s: 50 forward and 50 backward passes", "unknown", ...
///
/// @param forward_ms  of this model on this picture, as measured; 0 when it has not run
QString costWords(const MethodFacts& method, double forward_ms);
/// "0.4 s", "at once", "unknown": for a list.
QString costShort(const MethodFacts& method, double forward_ms);

/// Families in the order in which people come to them, methods of one family as they were registered, those without a
/// family last.
std::vector<MethodFacts> byFamily(std::vector<MethodFacts> methods);

/// A popup. Arrow keys move, Enter chooses, Ctrl+Enter or a click on its box puts a method into the grid or takes it
/// out, Escape closes.
class MethodPicker : public QFrame {
    Q_OBJECT

  public:
    /// Shows it below `anchor`; it deletes itself when it is closed.
    static MethodPicker* open(Session& session, Comparison& comparison, QWidget* anchor);

    /// The names in the order of the list; headings are not counted. For tests.
    QStringList listed() const;
    QString headingOf(const QString& method) const;  ///< of its group; empty when it is not listed
    void setSearch(const QString& words);
    void point(const QString& method);         ///< makes it the current one, as the arrow keys do
    QRect boxOf(const QString& method) const;  ///< of the list: where a click puts it into the grid
    QString details() const;                   ///< what is said of the current one, as plain text

  protected:
    bool eventFilter(QObject* watched, QEvent* event) override;

  private:
    MethodPicker(Session& session, Comparison& comparison, QWidget* anchor);
    void fill(const QString& words);
    void show(const QModelIndex& index);
    void take(const QModelIndex& index);
    void toggle(const QModelIndex& index);
    void refreshChecks();
    const MethodFacts* at(const QModelIndex& index) const;

    Session& session_;
    Comparison& comparison_;
    std::vector<MethodFacts> methods_;  ///< as they were when it was opened, sorted
    QStandardItemModel model_;
    QLineEdit* search_;
    QListView* list_;
    QLabel *title_, *summary_, *formula_, *facts_, *reason_, *hint_;
    QPushButton* compare_;
};

}  // namespace vitrine::app
