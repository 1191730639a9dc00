// What stands where the picture will be: an invitation to drop one; and the sheet of keys.
#pragma once

#include <QFrame>
#include <QLabel>
#include <QVBoxLayout>

#include "jobs/session.h"

class QAction;
class QPushButton;

namespace vitrine::app {

class EmptyState : public QFrame {
    Q_OBJECT

  public:
    explicit EmptyState(QWidget* parent = nullptr);
    /// @param recent  paths opened before; the first three are offered
    void setState(bool has_model, const QString& model, const QStringList& recent);
    void setDropping(bool dropping);

  Q_SIGNALS:
    void openPictureWanted();
    void openModelWanted();
    void recentWanted(const QString& path);

  protected:
    void paintEvent(QPaintEvent* event) override;
    void resizeEvent(QResizeEvent* event) override;

  private:
    QLabel *mark_, *title_, *words_;
    QPushButton *picture_, *model_;
    QVBoxLayout* recent_;
    bool dropping_ = false;
};

/// All keys, made from the actions themselves, so that it cannot be out of date.
class ShortcutSheet : public QWidget {
    Q_OBJECT

  public:
    explicit ShortcutSheet(QWidget* parent = nullptr);
    struct Group {
        QString heading;
        std::vector<std::pair<QString, QString>> keys;  ///< keys and what they do
    };
    void setGroups(const std::vector<Group>& groups);
    QSize sizeHint() const override { return {304, 600}; }

  private:
    QVBoxLayout* column_;
};

}  // namespace vitrine::app
