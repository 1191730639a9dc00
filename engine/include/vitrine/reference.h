// Plugin kind: an interactive page, such as a survey's taxonomy or a theory's demonstration over live numbers.
#pragma once

#include <string>

#include <vitrine/plugin.h>

namespace vitrine {

class Reference : public Plugin {
  public:
    /// The page as Markdown.
    virtual std::string page() const = 0;
};

}  // namespace vitrine
