// What starts and stops something that takes its time: one button or the other, progress, what is done, what went
// wrong.
#pragma once

#include <QString>
#include <QWidget>

class QLabel;
class QPushButton;

namespace vitrine::app {

class ThinBar;

class RunBox : public QWidget {
    Q_OBJECT

  public:
    struct State {
        bool running = false, stopping = false;
        double share = -1;       ///< 0 to 1; negative: not known
        QString start, why_not;  ///< the button's words, and why it cannot be pressed; empty: it can
        QString doing, trouble;  ///< what is under way or was done; what went wrong
    };
    /// @param name  of the object, and what its parts' names begin with: NAMEStart, NAMEStop, NAMEDoing, NAMETrouble
    explicit RunBox(const QString& name, QWidget* parent = nullptr);
    void setState(const State& state);
    /// Of the two lines of words the one that says how it ended.
    QWidget* outcome() const;

  Q_SIGNALS:
    void started();
    void stopped();

  private:
    QPushButton *start_, *stop_;
    ThinBar* bar_;
    QLabel *doing_, *trouble_;
};

}  // namespace vitrine::app
