// The settings of the chosen method and those that all methods take, built from what is declared: name, range, default,
// meaning.
#pragma once

#include <QWidget>

#include <functional>
#include <vector>

#include "jobs/session.h"

class QGridLayout;
class QLabel;
class QToolButton;

namespace vitrine::app {

/// One control a declared parameter, in two columns; words may be given the whole width below their caption.
class SettingsForm : public QWidget {
    Q_OBJECT

  public:
    using Set = std::function<void(const std::string& name, const std::string& value)>;
    explicit SettingsForm(bool wide_words = false, QWidget* parent = nullptr);
    void build(const std::vector<SettingFacts>& settings, const Set& set);
    void fill(const MethodSettings& chosen);  ///< asks for nothing
    /// Those that the others leave unread cannot be changed, and are seen to be so.
    void setUnread(const std::vector<std::string>& names);
    bool empty() const { return lines_.empty(); }
    QWidget* control(const std::string& name) const;  ///< named as it is declared; null when there is none

  private:
    struct Line {
        SettingFacts facts;
        QLabel* caption;
        QWidget* control;
    };
    QWidget* make(const SettingFacts& facts, const Set& set);

    bool wide_words_;
    QGridLayout* grid_;
    std::vector<Line> lines_;
};

class MethodSettingsView : public QWidget {
    Q_OBJECT

  public:
    explicit MethodSettingsView(Session& session, QWidget* parent = nullptr);
    void restyle();
    /// Whether there is an explanation to be set; a method without settings takes no space either way.
    void setShown(bool shown);
    /// The control of a setting, named as it is declared; null when there is none.
    QWidget* control(const std::string& name) const;
    QWidget* sharedControl(const std::string& name) const;  ///< of those that all methods take
    void unfold(bool shared);                               ///< shows the settings that all methods take, or hides them

  private:
    void refresh();
    void fill();

    Session& session_;
    QWidget *own_, *for_all_, *folded_;
    QToolButton *reset_, *fold_, *reset_shared_;
    SettingsForm *form_, *shared_form_;
    std::string method_;
    bool shown_ = true;
};

}  // namespace vitrine::app
