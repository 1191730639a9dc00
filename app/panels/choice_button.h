// A button that opens a list one can search: models, classes, methods, commands.
#pragma once

#include <QPushButton>
#include <QString>
#include <QVariant>

#include <functional>
#include <vector>

namespace vitrine::app {

struct ChoiceItem {
    QString title;
    QString note;  ///< to the right, quiet: "87 %", "Ctrl+O"
    QString tooltip;
    QVariant value;
    QString why_not;  ///< grey with this as tooltip; empty when it can be chosen
    bool current = false;
    QString heading;  ///< starts a group with this heading above it; empty continues
};

/// The list itself: a popup with a search line. Arrow keys move, Enter chooses, Escape closes.
void openChoices(QWidget* anchor, const QPoint& where, int width, const QString& search_hint,
                 std::vector<ChoiceItem> items, std::function<void(const QVariant&)> chosen);

class ChoiceButton : public QPushButton {
    Q_OBJECT

  public:
    explicit ChoiceButton(QWidget* parent = nullptr);
    /// `caption` is quiet and stands before the text ("why", "vs").
    void setFace(const QString& icon, const QString& caption, const QString& text, const QString& note = {});
    void setItems(std::function<std::vector<ChoiceItem>()> items, const QString& search_hint);
    void setOpener(std::function<void()> open);  ///< opens something else than a list of items
    void setReason(const QString& why_not);      ///< greys the button; empty enables it
    void setHint(const QString& tooltip);
    QSize sizeHint() const override;
    QSize minimumSizeHint() const override;
    QString faceText() const { return text_; }

  public Q_SLOTS:
    void openList();

  Q_SIGNALS:
    void chosen(const QVariant& value);

  protected:
    void paintEvent(QPaintEvent* event) override;
    bool event(QEvent* event) override;

  private:
    QString icon_, caption_, text_, note_, search_hint_, hint_;
    std::function<std::vector<ChoiceItem>()> items_;
    std::function<void()> opener_;
};

}  // namespace vitrine::app
