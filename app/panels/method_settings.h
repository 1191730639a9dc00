// The settings of the chosen method, built from what the method declares: name, range, default, meaning.
#pragma once

#include <QWidget>

#include <vector>

#include "jobs/session.h"

class QGridLayout;
class QLabel;
class QToolButton;

namespace vitrine::app {

class MethodSettingsView : public QWidget {
    Q_OBJECT

  public:
    explicit MethodSettingsView(Session& session, QWidget* parent = nullptr);
    void restyle();
    /// Whether there is an explanation to be set; a method without settings takes no space either way.
    void setShown(bool shown);
    /// The control of a setting, named as it is declared; null when there is none.
    QWidget* control(const std::string& name) const;

  private:
    void refresh();
    void rebuild(const MethodFacts& facts);
    QWidget* make(const SettingFacts& facts);
    void fill();

    struct Line {
        SettingFacts facts;
        QLabel* caption;
        QWidget* control;
    };
    Session& session_;
    QLabel* heading_;
    QToolButton* reset_;
    QGridLayout* grid_;
    std::vector<Line> lines_;
    std::string method_;
    bool shown_ = true;
};

}  // namespace vitrine::app
